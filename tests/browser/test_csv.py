"""The page's CSV reader and writer, run in the browser, beside Python's own."""

import csv
import io
import random
from typing import Any

import pytest
from playwright.sync_api import Page

from .conftest import Open

CALL = """async ([name, ...given]) => (await import("./web/csv.js"))[name](...given)"""


@pytest.fixture(scope="module")
def cases() -> list[tuple[str, str, list[list[str]]]]:
    """Random tables as Python writes them: (delimiter, text, cells)."""
    draw = random.Random(7)
    pieces = [
        "a",
        "bc",
        '"',
        '""',
        ",",
        ";",
        "\t",
        "|",
        "\n",
        "\r\n",
        " ",
        "é",
        "😀",
        "'",
        "=1",
        "",
    ]
    cases = []
    for _ in range(400):
        width = draw.randint(1, 4)
        rows = [
            ["".join(draw.choices(pieces, k=draw.randint(0, 5))) for _ in range(width)]
            for _ in range(draw.randint(1, 5))
        ]
        file = io.StringIO(newline="")
        delimiter = draw.choice(",;\t|")
        writer = csv.writer(
            file,
            delimiter=delimiter,
            lineterminator=draw.choice(["\n", "\r\n"]),
            quoting=draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        )
        writer.writerows(rows)
        text = file.getvalue()
        if draw.random() < 0.5:
            text = text.removesuffix("\n").removesuffix("\r")
        cases.append((delimiter, text, rows))
    return cases


def call(page: Page, name: str, *given: Any) -> Any:
    return page.evaluate(CALL, [name, *given])


def test_reads_what_python_writes(
    page: Page, cases: list[tuple[str, str, list[list[str]]]]
) -> None:
    for delimiter, text, rows in cases:
        read = call(page, "parse", text, {"delimiter": delimiter})
        assert read["problem"] is None, text
        assert [record["fields"] for record in read["records"]] == rows, text


def test_any_text_comes_back_to_the_byte(page: Page) -> None:
    draw = random.Random(8)
    for _ in range(300):
        text = "".join(draw.choices('ab,;\t"\n\r é😀', k=draw.randint(0, 40)))
        if draw.random() < 0.3:
            text = "\ufeff" + text
        table = call(page, "readTable", text)
        none = [None] * len(table["records"])
        assert call(page, "writeTable", table, none, 1) == text


def test_columns_are_added_and_the_rest_stays(
    page: Page, cases: list[tuple[str, str, list[list[str]]]]
) -> None:
    new = ["ham", 'a "b"', "1,5;\t|", "line\nbreak"]
    for delimiter, text, rows in cases:
        table = call(page, "readTable", text, delimiter)
        added = call(page, "writeTable", table, [new] * len(rows), len(rows[0]))
        # A row with nothing but an empty cell that is not quoted is an empty line, and stays one.
        wanted = [[*row, *new] if row != [""] or '""' in text else row for row in rows]
        read = list(csv.reader(io.StringIO(added, newline=""), delimiter=delimiter))
        assert [row or [""] for row in read] == wanted, text


def test_known_cases(page: Page) -> None:
    def fields(text: str, **options: Any) -> list[list[str]]:
        read = call(page, "parse", text, options)
        return [record["fields"] for record in read["records"]]

    assert fields('a,"b ""c"" d",\r\n,"x\r\ny",\n') == [["a", 'b "c" d', ""], ["", "x\r\ny", ""]]
    assert fields("a\rb\r") == [["a"], ["b"]]
    assert fields('say "hi",2') == [['say "hi"', "2"]]
    assert fields("") == []
    assert fields("a,b,") == [["a", "b", ""]]
    lines = [record["line"] for record in call(page, "parse", '"a\n\nb"\nc\n', {})["records"]]
    assert lines == [1, 4]


def test_bad_quotes_are_told(page: Page) -> None:
    assert call(page, "parse", 'a\nb,"c\nd', {})["problem"] == {
        "line": 2,
        "message": "the quote that opens in line 2 is never closed",
    }
    assert call(page, "parse", 'a,"b"c\n', {})["problem"]["line"] == 1


def test_tabs_with_lone_quotes_are_read_without_quoting(page: Page) -> None:
    """As in the SMS collection, of which readers with default quoting lose messages."""
    text = 'ham\t"Hello there\nspam\tWin "big" now\nham\tok\n'
    table = call(page, "readTable", text)
    assert (table["delimiter"], table["quotes"], table["problem"]) == ("\t", False, None)
    assert [record["fields"][1] for record in table["records"]] == [
        '"Hello there',
        'Win "big" now',
        "ok",
    ]
    quoted = call(page, "readTable", 'a\tb\n"x\ty"\tz\n')
    assert quoted["quotes"]
    assert quoted["records"][1]["fields"] == ["x\ty", "z"]


def test_delimiters_are_guessed(page: Page) -> None:
    for delimiter in ",;\t|":
        text = "\n".join(delimiter.join([f"id{i}", f"a, b; c {i}", "x"]) for i in range(9))
        quoted = text if delimiter not in ",;" else text.replace("a, b; c", "a b c")
        assert call(page, "guessDelimiter", quoted) == delimiter
    assert call(page, "guessDelimiter", "one column\nof text\n") == ","


def test_added_cells_are_no_formulas(page: Page) -> None:
    table = call(page, "readTable", "=1+1,b\n")
    new = ["=cmd", "+1+1", "-2-x", "@x", "ok=", "\tx", "-"]
    wanted = "=1+1,b,'=cmd,'+1+1,'-2-x,'@x,ok=,'\tx,'-\n"
    assert call(page, "writeTable", table, [new], 2) == wanted


def test_numbers_with_a_sign_stay_as_they_are(page: Page) -> None:
    table = call(page, "readTable", "a,b\n")
    new = ["+1", "-1", "-0.25", "+1e-7", "-2E+3"]
    assert call(page, "writeTable", table, [new], 2) == "a,b,+1,-1,-0.25,+1e-7,-2E+3\n"


def test_short_rows_are_filled_up(page: Page) -> None:
    table = call(page, "readTable", "a,b,c\n1\n\n1,2,3\n")
    added = [["label"], ["x"], ["y"], ["z"]]
    assert call(page, "writeTable", table, added, 3) == "a,b,c,label\n1,,,x\n\n1,2,3,z\n"


def test_names_of_columns_are_free(page: Page) -> None:
    assert call(page, "freeName", "label", ["a"]) == "label"
    assert call(page, "freeName", "label", ["label", "label_2"]) == "label_3"


def test_encodings(open_page: Open) -> None:
    page = open_page()
    decode = """async (bytes) => {
        const { decodeText } = await import("./web/decode-text.js");
        return decodeText(new Uint8Array(bytes));
    }"""
    for encoding, text in (
        ("utf-8", "né,1"),
        ("utf-8-sig", "né,1"),
        ("utf-16", "né,1"),
        ("cp1252", "né – “x”"),
    ):
        read = page.evaluate(decode, list(text.encode(encoding)))
        assert read["text"].removeprefix("\ufeff") == text
        assert bool(read["note"]) == (not encoding.startswith("utf-8"))
        assert read["text"].startswith("\ufeff") == (encoding != "utf-8")
