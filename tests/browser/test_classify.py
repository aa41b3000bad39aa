"""Classify: labels, words coloured by contribution, and files that come back labelled."""

import csv
import io
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.server import SCRATCH, serve

from .conftest import Open, Watched, finished

SPAM = "Congratulations! You have won a free prize, call 09061701461 now to claim"
HAM = "Are we still meeting for lunch tomorrow?"
ROWS = [
    ["id", "Message", "note, with a comma"],
    ["1", SPAM, 'say "yes"'],
    ["2", HAM, "two\r\nlines"],
    ["3", 'He said "call me, please"\nand left', "=1+1"],
    ["4", "", "no text"],
    ["5", "<b>FREE</b> é 😀 entry! Text WIN to 80086", ""],
]


def open_classify(open_page: Open, **options: object) -> Page:
    return open_page("/#classify", **options)


def file_of(rows: list[list[str]], *, bom: bool = False, end: str = "\r\n") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end).writerows(rows)
    return (("\ufeff" if bom else "") + file.getvalue()).encode()


def labelled(page: Page, name: str, content: bytes) -> bytes:
    """The file as the page gives it back."""
    page.set_input_files("#file", {"name": name, "mimeType": "text/csv", "buffer": content})
    page.locator("#table button", has_text="Label").click()
    save = page.locator("#table button", has_text="Download the labelled file")
    with page.expect_download() as download:
        save.click()
    stem, _, suffix = name.rpartition(".")
    assert download.value.suggested_filename == f"{stem}-labelled.{suffix}"
    return Path(download.value.path()).read_bytes()


def test_messages_are_labelled(open_page: Open, api: httpx.Client) -> None:
    page = open_classify(open_page)
    page.fill("#messages", f"{SPAM}\n\n  {HAM}\r\n")
    page.click("#classify-go")
    assert finished(page, "classify").startswith("2 messages in ")
    results = page.locator("#results > li")
    labels = [li.locator(".label").inner_text() for li in results.all()]
    wanted = api.post("/classify", json={"text": [SPAM, HAM]}).json()["results"]
    assert labels == [result["label"] for result in wanted] == ["spam", "ham"]
    for li, result in zip(results.all(), wanted, strict=True):
        shown = li.locator(".chance .number").inner_text()
        assert abs(float(shown.strip("%<> ")) - 100 * result["probabilities"]["spam"]) < 0.2
        # The shape says it, too: not by colour alone.
    shape = "getComputedStyle(document.querySelectorAll('.label')[%d], '::before').clipPath"
    assert page.evaluate(shape % 0) != page.evaluate(shape % 1)


def test_words_are_coloured_by_contribution(open_page: Open, api: httpx.Client) -> None:
    page = open_classify(open_page)
    page.fill("#messages", SPAM)
    page.click("#classify-go")
    finished(page, "classify")
    words = page.locator("#results .words")
    text = words.evaluate(
        """(node) => {
            const copy = node.cloneNode(true);
            for (const sup of copy.querySelectorAll("sup")) sup.remove();
            return copy.textContent;
        }"""
    )
    assert text == SPAM
    for_it, against = words.locator("mark.for"), words.locator("mark.against")
    assert for_it.count() > 0
    signs = words.locator("sup").all_inner_texts()
    assert signs
    assert all(sign[0] in "+−" for sign in signs)
    for mark in for_it.locator("sup").all():
        assert mark.inner_text().startswith("+")
    for mark in against.locator("sup").all():
        assert mark.inner_text().startswith("−")
    answer = api.post("/classify", json={"text": SPAM, "explain": True}).json()["results"][0]
    attributions = answer["attributions"]
    page.click("#results .by-word summary")
    listed = [float(b.replace("−", "-")) for b in page.locator(".by-word b").all_inner_texts()]
    assert sum(listed) == pytest.approx(
        sum(token["contribution"] for token in attributions["tokens"]),
        abs=0.005 * len(listed) + 0.01,
    )
    assert [abs(x) for x in listed] == sorted(map(abs, listed), reverse=True)
    assert f"Log-odds of {attributions['of']}" in page.locator(".by-word .hint").inner_text()


def test_words_add_up_whatever_the_tokens(page: Page) -> None:
    sums = page.evaluate(
        """async () => {
            const { words } = await import("./web/attributions.js");
            const token = (text, contribution) => ({ text, contribution });
            const cut = (text, ...pairs) => words(text, pairs.map(([t, c]) => token(t, c)))
              .filter((word) => word.word)
              .map((word) => [word.before, word.word, word.value]);
            const part = "\\ufffd";
            return [
              cut("free prize!", ["f", 1], ["ree", 2], [" prize", 4], ["!", 8]),
              cut(" a \\n b ", [" a", 1], [" ", 2], ["\\n", 4], [" b", 8], [" ", 16]),
              cut("né 😀x", ["n", 1], [part, 2], [part, 4], [" " + part, 8], [part, 16], ["x", 32]),
              cut("né ok", ["n", 1], ["", 2], ["é", 4], [" ok", 8]),
              cut("read unread", ["read", 1]),
            ];
        }"""
    )
    assert sums == [
        [["", "free", 3], [" ", "prize!", 12]],
        [[" ", "a", 1], [" \n ", "b", 30]],
        [["", "né", 7], [" ", "😀x", 56]],
        [["", "né", 7], [" ", "ok", 8]],
        [["", "read", 1], [" ", "unread", None]],
    ]


def test_one_message_of_several_lines(open_page: Open) -> None:
    page = open_classify(open_page)
    page.get_by_label("One message a line").uncheck()
    page.get_by_label("Explain").uncheck()
    page.fill("#messages", f"{HAM}\n{HAM}")
    with page.expect_request("**/classify") as request:
        page.click("#classify-go")
    assert request.value.post_data_json == {"text": f"{HAM}\n{HAM}", "truncate": True}
    finished(page, "classify")
    assert page.locator("#results > li").count() == 1


def test_threshold_and_errors(open_page: Open, watched: Watched) -> None:
    watched.expected = {400, 422}
    page = open_classify(open_page)
    page.fill("#messages", "")
    page.click("#classify-go")
    expect(page.locator("#classify [data-error=text]")).to_have_text("Paste a message first.")
    page.get_by_label("Cut long messages").uncheck()
    page.fill("#messages", "word " * 600)
    page.click("#classify-go")
    expect(page.locator("#classify [data-error=text]")).to_contain_text("context of 512")
    page.fill("#messages", HAM)
    page.fill("#classify-threshold", "2")
    page.click("#classify-go")
    expect(page.locator("#classify [data-error=threshold]")).to_contain_text("between 0 and 1")
    page.fill("#classify-threshold", "0.001")
    page.click("#classify-go")
    finished(page, "classify")
    assert page.locator("#results .label").inner_text() == "spam"


def test_a_band_in_which_the_label_is_unsure(open_page: Open, api: httpx.Client) -> None:
    page = open_classify(open_page)
    page.fill("#classify-unsure_band", "0.00001")
    page.fill("#messages", f"{SPAM}\n{HAM}")
    page.click("#classify-go")
    finished(page, "classify")
    assert page.locator("#results .label").all_inner_texts() == ["unsure", "unsure"]
    assert page.locator("#results .is-unsure").count() == 2
    expect(page.locator("#results")).to_contain_text("leaning towards spam")
    expect(page.locator("#results")).to_contain_text("leaning towards ham")
    assert page.locator(".chance-bar s").count() == 2


def test_a_long_message_is_cut_and_it_is_said(open_page: Open) -> None:
    page = open_classify(open_page)
    page.get_by_label("Explain").uncheck()
    page.fill("#messages", "word " * 600)
    page.click("#classify-go")
    finished(page, "classify")
    expect(page.locator("#results")).to_contain_text("Only the first 512 tokens were read.")


@pytest.mark.parametrize("bom", [True, False])
def test_a_file_comes_back_labelled(open_page: Open, api: httpx.Client, bom: bool) -> None:
    page = open_classify(open_page)
    content = file_of(ROWS, bom=bom)
    back = labelled(page, "messages.csv", content)
    text = back.decode("utf-8-sig")
    assert back.startswith(b"\xef\xbb\xbf") == bom
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[:3] for row in rows] == ROWS
    assert rows[0][3:] == ["label", "score", "p_ham", "p_spam"]
    # All that was there is there to the byte.
    old = content.decode("utf-8-sig").removesuffix("\r\n").split("\r\n4,")
    assert text.count("\r\n") == content.decode().count("\r\n")
    assert f"\r\n4,{old[1].split(chr(13))[0]},,,," in text
    texts = [row[1] for row in ROWS[1:] if row[1]]
    wanted = iter(api.post("/classify", json={"text": texts}).json()["results"])
    for row in rows[1:]:
        if not row[1]:
            assert row[3:] == ["", "", "", ""]
            continue
        result = next(wanted)
        assert row[3] == result["label"]
        assert float(row[4]) == pytest.approx(result["score"], abs=1e-4)
        assert float(row[6]) == pytest.approx(result["probabilities"]["spam"], abs=1e-4)
    expect(page.locator("#table .outcome")).to_contain_text("1 no text")
    assert page.locator("#table b, #table td b").count() == 1  # the file's name; markup is text


def test_tab_separated_text_without_header(open_page: Open) -> None:
    page = open_classify(open_page)
    content = f'ham\t"{HAM}\nspam\t{SPAM}\n'.encode()
    back = labelled(page, "collection.tsv", content).decode().split("\n")
    assert [line.split("\t")[:2] for line in back[:2]] == [["ham", f'"{HAM}'], ["spam", SPAM]]
    assert [line.split("\t")[2] for line in back[:2]] == ["ham", "spam"]
    assert back[2] == ""


def test_another_column_can_be_chosen(open_page: Open) -> None:
    page = open_classify(open_page)
    content = file_of([["label", "text", "other"], ["x", HAM, SPAM], ["y", SPAM, HAM]])
    page.set_input_files("#file", {"name": "t.csv", "mimeType": "text/csv", "buffer": content})
    assert page.locator("#column").input_value() == "1"
    page.select_option("#column", label="other")
    page.click("#table button.primary")
    with page.expect_download() as download:
        page.locator("#table button", has_text="Download the labelled file").click()
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(), newline="")))
    assert rows[0][3] == "label_2"
    assert [row[3] for row in rows[1:]] == ["spam", "ham"]


def test_a_file_can_be_dropped(open_page: Open) -> None:
    page = open_classify(open_page)
    transfer = page.evaluate_handle(
        """(text) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([text], "dropped.csv", { type: "text/csv" }));
            return transfer;
        }""",
        file_of(ROWS).decode(),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("#table .file-name")).to_have_text("dropped.csv 6 rows")
    expect(page.locator("#table button.primary")).to_have_text("Label 5 rows")


def test_batches_keep_to_the_limits_and_a_stop_can_go_on(
    open_page: Open, tmp_path: Path, watched: Watched
) -> None:
    watched.expected = {429}
    rows = [["text"], *([f"{HAM} {number}"] for number in range(40))]
    flags = ("--threads", "1", "--max-batch", "4", "--max-waiting", "4")
    with serve(tmp_path / "log", "--models", SCRATCH, *flags) as (client, _):
        sizes: list[int] = []
        busy = [True]

        def before(page: Page) -> None:
            def answer(route: object) -> None:
                size = len(route.request.post_data_json["text"])  # type: ignore[attr-defined]
                if len(sizes) == 2 and busy:
                    busy.clear()
                    headers = {"Retry-After": "2", "Content-Type": "application/problem+json"}
                    route.fulfill(status=429, headers=headers, body="{}")  # type: ignore[attr-defined]
                    return
                sizes.append(size)
                route.continue_()  # type: ignore[attr-defined]

            page.route("**/classify", answer)

        page = open_page("/#classify", at=str(client.base_url).rstrip("/"), before=before)
        content = file_of(rows, end="\n")
        page.set_input_files("#file", {"name": "t.csv", "mimeType": "text/csv", "buffer": content})
        page.locator("#table button", has_text="Label 40 rows").click()
        told = page.locator("#table .outcome")
        expect(told).to_contain_text("The service is busy")
        page.locator("#table button", has_text="Cancel").click()
        expect(told).to_have_text("Stopped after 8 of 40 rows.")
        page.locator("#table button", has_text="Go on").click()
        expect(told).to_have_text("40 ham")
        assert sizes == [4] * 10
        page.close()
