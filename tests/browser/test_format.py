"""What a text must be: the field `response_format`, from Write's settings."""

import json
import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from .conftest import Watched, finished, set_field, written


def choose_format(page: Page, kind: str, text: str | None = None) -> None:
    page.select_option("#write-settings-response_format", label=kind)
    if text is not None:
        page.fill("#write-settings-response_format-text", text)


def test_a_text_of_a_form(page: Page) -> None:
    """Each kind, with the example that it begins with."""
    set_field(page, "max_new_tokens", 120)
    set_field(page, "seed", 2)
    wanted: dict[str, Callable[[str], object]] = {
        "a JSON object": lambda text: isinstance(json.loads(text), dict),
        "JSON of a schema": lambda text: sorted(json.loads(text)) == ["age", "name"],
        "a match of a pattern": lambda text: re.fullmatch(r"(Yes|No), [a-z ]{5,60}\.", text),
        "one of several": lambda text: text in (" yes", " no", " perhaps"),
    }
    for kind, fits in wanted.items():
        choose_format(page, kind)
        page.click("#write-again") if page.is_enabled("#write-again") else page.click("#write-go")
        assert finished(page, "write").endswith("it is whole")
        assert fits(written(page).removesuffix("∎"))
    expect(page.locator("#write-settings-response_format-text")).to_be_visible()
    choose_format(page, "JSON of a schema")
    set_field(page, "max_new_tokens", 3)
    page.click("#write-again")
    assert finished(page, "write").endswith("so this is only its beginning")
    choose_format(page, "any text")
    set_field(page, "max_new_tokens", 5)
    page.click("#write-again")
    assert "beginning" not in finished(page, "write")


def test_a_form_that_is_wrong_is_marked(page: Page, watched: Watched) -> None:
    error = page.locator("#write [data-error=response_format]")
    text = page.locator("#write-settings-response_format-text")
    choose_format(page, "JSON of a schema", '{"type": ')
    page.click("#write-go")
    expect(error).to_contain_text("is no JSON")
    expect(text).to_be_focused()
    watched.expected.add(422)
    for kind, wrong, said in (
        ("JSON of a schema", '{"not": {}}', "not"),
        ("a match of a pattern", "[a-", "unclosed character class"),
        ("one of several", "", "choices"),
    ):
        choose_format(page, kind, wrong)
        page.click("#write-go")
        expect(text).to_have_attribute("aria-invalid", "true")
        expect(error).to_contain_text(said)
    # What was written for a kind is there again.
    choose_format(page, "a match of a pattern")
    expect(text).to_have_value("[a-")


def test_a_form_is_for_a_whole_text(page: Page) -> None:
    set_field(page, "max_new_tokens", 5)
    page.click("#write-go")
    finished(page, "write")
    choose_format(page, "one of several", "a\nb")
    before = written(page)
    page.click("#write-go")
    expect(page.locator("#write [data-error=response_format]")).to_contain_text("Try again")
    assert written(page) == before
    page.click("#write-again")
    finished(page, "write")
    assert written(page).removesuffix("∎") in ("a", "b")
