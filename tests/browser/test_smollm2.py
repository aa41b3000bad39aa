"""The page with a file that people have: one base that writes and follows instructions."""

from pathlib import Path

from playwright.sync_api import expect

from tests.e2e.server import serve

from .conftest import Open, Watched, finished, written


def test_it_answers_and_writes(
    open_page: Open, watched: Watched, smollm2_file: Path, tmp_path: Path
) -> None:
    with serve(tmp_path / "log", "--base", smollm2_file) as (client, _):
        at = str(client.base_url).rstrip("/")
        page = open_page("/#instruct", at=at)
        page.set_default_timeout(60_000)
        page.fill("#instruction", "What is the capital of Japan?")
        page.fill("#input", "")
        page.click("#instruct-go")
        finished(page, "instruct")
        expect(page.locator("#answer")).to_contain_text("Tokyo")
        expect(page.locator("#models")).to_contain_text(smollm2_file.stem)
        page = open_page("/#write", at=at)
        page.set_default_timeout(60_000)
        page.click("#write-go")
        finished(page, "write")
        assert "<|" not in written(page)
        watched.offline = True  # the service goes before the page does
