"""Tables: what spreadsheets and people write is read whole, or refused with its line."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from training.data.labelled import Example, Reading, read_labelled

Rows = list[tuple[str, str]]

ROWS: Rows = [
    ("ham", "Hello, how are you?"),
    ("spam", 'Win "cash" now'),
    ("ham", "two\nlines"),
    ("spam", "a\ttab; and more"),
    ("ham", "plain"),
    ("spam", ' "'),
]


def read(path: Path, content: str, reading: Reading | None = None) -> Rows:
    path.write_text(content, newline="")
    return [(e.label, e.text) for e in read_labelled(path, reading)]


def written(rows: Any, **form: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **form).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("header", [("label", "text"), ("Label", "Text"), ("label ", " TEXT")])
def test_what_a_csv_writer_writes(
    separator: str, end: str, quoting: Any, header: tuple[str, str], tmp_path: Path
) -> None:
    form = {"delimiter": separator, "lineterminator": end, "quoting": quoting}
    rows = [(label, text.lstrip()) for label, text in ROWS]
    content = written([header, *rows], **form)
    assert read(tmp_path / "a.csv", content) == rows
    excel = f"sep={separator}{end}"
    assert read(tmp_path / "a.csv", excel + content) == rows
    wider = [(*header, "", ""), *((*row, "", "") for row in rows), ("", "", "", "")]
    assert read(tmp_path / "a.csv", written(wider, **form)) == rows
    if separator == "\t":
        assert read(tmp_path / "a.tsv", content) == rows
        assert read(tmp_path / "63", content) == rows


def test_a_pipe_has_no_name_to_know_a_csv_by(tmp_path: Path) -> None:
    assert read(tmp_path / "63", written([("label", "text"), *ROWS])) == ROWS


def test_blanks_after_separators_belong_to_them(tmp_path: Path) -> None:
    content = 'label, text\nham, "Hello, you"\nspam, Win\n'
    assert read(tmp_path / "a.csv", content) == [("ham", "Hello, you"), ("spam", "Win")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,text\nham,a\nham,Hello, how are you?\n", "line 3 has 3 cells, and the header 2"),
        ("label,text,id\nham,a,1\nham\n", "line 3 has no text, no id: it has 1 cell"),
        ("label,text,id\nham,a,1\nham,b\n", "line 3 has no id: it has 2 cells"),
        ("label,text,text\nham,a,b\n", "line 1 names `text` 2 times"),
        ("label,Text,TEXT\nham,a,b\n", "line 1 names `text` 2 times"),
        ('label,text\nham,a\nspam,"Free" entry, win "cash" now\n', "line 3: "),
        ('label,text\nham,a\nspam,"Free entry\nham,b\nham,"c" d\n', "line 3: "),
        ('label,text\nham,a\nspam,"Free entry\nham,b\nham,c\n', "line 3: unexpected end"),
        ('label,text\nham,"two\nlines"\nspam,"say \\"cash\\" now"\n', "line 4: "),
        ("sep=,\nlabel,text\nham,a,b\n", "line 3 has 3 cells"),
        ("label,text\n", "has no rows"),
        ("label,text\n,\n\n", "has no rows"),
        (
            "id,words\n1,a\n",
            r"line 1 is \['id', 'words'\]; it must name `label` and `text` \(--lab",
        ),
    ],
)
def test_what_would_be_cut_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(DataError, match=message) as error:
        read(path, content)
    assert str(path) in str(error.value)


def test_an_open_quote_swallows_no_rows(tmp_path: Path) -> None:
    rows = [f"ham,message {number}" for number in range(40)]
    rows[3] = 'spam,"Free entry in a weekly draw'
    with pytest.raises(DataError, match=r"a\.csv: line 5: "):
        read(tmp_path / "a.csv", "label,text\n" + "\n".join(rows) + "\n")


@pytest.mark.parametrize("names", ["Text,text", "text,Text", "text, TEXT ", "text,text"])
def test_no_spelling_of_a_name_goes_before_another(names: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv: line 1 names `text` 2 times: \['label'"):
        read(tmp_path / "a.csv", f"label,{names}\nham,a,b\n")
    one, two = names.split(",")
    if one != two:
        row = json.dumps({"label": "ham", one: "a", two: "b"})
        for name in ("a.jsonl", "a.json"):
            with pytest.raises(DataError, match="line 1 names `text` 2 times"):
                read(tmp_path / name, row + "\n")


def test_columns_whose_names_differ_in_case_alone_are_told_by_it(tmp_path: Path) -> None:
    reading = Reading("A", "a")
    assert read(tmp_path / "a.csv", "a,A\nwords,ham\n", reading) == [("ham", "words")]
    assert read(tmp_path / "a.jsonl", '{"a": "words", "A": "ham"}', reading) == [("ham", "words")]


def test_cells_in_columns_without_a_name_leave_the_row_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = "v1,v2,,\nham,one,,\nspam,two, PO Box 5249,\nham,three,,\n"
    found = read(tmp_path / "a.csv", content, Reading("v1", "v2"))
    assert found == [("ham", "one"), ("ham", "three")]
    err = capsys.readouterr().err
    assert "a.csv: 1 of 3 rows are left out:\n  line 3: it has a cell in a column without" in err


def test_long_cells(tmp_path: Path) -> None:
    rows = [("ham", "word " * 50_000), ("spam", "b")]
    assert read(tmp_path / "a.csv", written([("label", "text"), *rows])) == rows
    assert read(tmp_path / "a.tsv", "".join(f"{a}\t{b}\n" for a, b in rows)) == rows


def test_lines_below_a_header_have_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    content = "label\ttext\tid\nham\tHe said \"go\t7\nspam\t'one\t8\n"
    assert read(path, content) == [("ham", 'He said "go'), ("spam", "'one")]
    for line, message in (
        ("ham\tone\ttwo\t3", "line 4 has 4 cells"),
        ("ham\tone", "line 4 has no id"),
    ):
        with pytest.raises(DataError, match=message):
            read(path, content + line + "\n")
    with pytest.raises(DataError, match="has no rows"):
        read(path, "label\ttext\n")


def test_quotes_of_a_file_without_quoting_stay(tmp_path: Path) -> None:
    rows = [("ham", '"Hello"'), ("spam", '"Win now'), ("ham", 'the end"'), ("ham", "a, b")]
    content = "label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows)
    assert read(tmp_path / "a.tsv", content) == rows
    assert read(tmp_path / "b.tsv", content.partition("\n")[2]) == rows


@pytest.mark.parametrize("header", ["", "label\ttext\n"])
def test_lines_may_end_with_a_carriage_return_alone(header: str, tmp_path: Path) -> None:
    content = (header + "ham\tone\nspam\ttwo\n").replace("\n", "\r")
    assert read(tmp_path / "a.tsv", content) == [("ham", "one"), ("spam", "two")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_empty_lines_and_columns(name: str, tmp_path: Path) -> None:
    content = "\n \nlabel\ttext\t\t\n\nham\tone\t\t\n\t\t\t\nspam\ttwo\n"
    assert read(tmp_path / name, content) == [("ham", "one"), ("spam", "two")]
    with pytest.raises(DataError, match="line 8 has 5 cells, and the header 2 cells"):
        read(tmp_path / name, content + "ham\ta\t\t\tb\n")


def test_commas_of_a_text_are_no_header(tmp_path: Path) -> None:
    rows = [("ham", "a, label, text"), ("spam", "b, c, d")]
    assert read(tmp_path / "a.tsv", "".join(f"{a}\t{b}\n" for a, b in rows)) == rows


def test_spellings_of_a_label_stay(tmp_path: Path) -> None:
    rows = [("ham", "a"), ("Ham", "b"), ("HAM", "c")]
    assert read(tmp_path / "a.csv", written([("label", "text"), *rows])) == rows


def test_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"Text": [text for _, text in ROWS] + [None], "label": [0, 1] * 3 + [1], "id": range(7)}
    parquet.write_table(
        pyarrow.table({k: list(v) for k, v in table.items()}), tmp_path / "a.parquet"
    )
    found = list(read_labelled(tmp_path / "a.parquet"))
    assert found == [Example(str(n % 2), text) for n, (_, text) in enumerate(ROWS)]
    assert "1 of 7 rows are left out:\n  row 7: its text is null" in capsys.readouterr().err
    with pytest.raises(
        DataError, match="no words that is a string; its fields are Text, label, id"
    ):
        list(read_labelled(tmp_path / "a.parquet", Reading("label", "words")))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read"):
        list(read_labelled(tmp_path / "b.parquet"))


def test_spreadsheets(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="spreadsheets need openpyxl")
    path = tmp_path / "a.xlsx"
    book = openpyxl.Workbook()
    for row in [("Label", "Text", None), *ROWS, (1, 42), (True, "yes"), (None, None)]:
        book.active.append(row)
    book.save(path)
    found = [(e.label, e.text) for e in read_labelled(path)]
    assert found == [*ROWS, ("1", "42"), ("true", "yes")]
    book.active.append(("ham", None))
    book.save(path)
    with pytest.raises(DataError, match="line 11 has no text"):
        list(read_labelled(path))
    book.create_sheet("more").append(("a", "b"))
    book.save(path)
    with pytest.raises(DataError, match="must have one sheet with cells in it; it has Sheet, more"):
        list(read_labelled(path))
    path.write_bytes(b"PK and no more")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_labelled(path))


@pytest.mark.parametrize(("form", "package"), [("parquet", "pyarrow"), ("xlsx", "openpyxl")])
def test_what_to_install_is_said(
    form: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (package, f"{package}.{form}"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    path = tmp_path / f"a.{form}"
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=f"pip install {package}"):
        list(read_labelled(path))


OBJECTS = [{"label": label, "text": text} for label, text in ROWS]
LINES = "".join(json.dumps(row) + "\n" for row in OBJECTS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("A.JSONL", LINES),
        ("a.json", LINES),
        ("a.json", json.dumps(OBJECTS, indent=2)),
        ("a.jsonl", json.dumps(OBJECTS)),
        ("a.jsonl", json.dumps(OBJECTS, indent=2)),
        ("63", LINES),
        ("63", json.dumps(OBJECTS)),
        ("a.jsonl", LINES.replace("\n", "\r\n\r\n")),
    ],
)
def test_the_content_says_which_json_it_is(name: str, content: str, tmp_path: Path) -> None:
    assert read(tmp_path / name, content) == ROWS


def test_labels_that_are_numbers_and_booleans(tmp_path: Path) -> None:
    lines = [{"label": label, "text": "a"} for label in (1, 0, -7, True, False, "1")]
    found = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert [label for label, _ in found] == ["1", "0", "-7", "true", "false", "1"]


def test_rows_with_null_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [dict(row) for row in OBJECTS] + [{"label": "ham", "text": None}] * 7
    rows[1] = {"label": None, "text": "a"}
    found = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert found == [ROWS[0], *ROWS[2:]]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{tmp_path / 'a.jsonl'}: 8 of 13 rows are left out:"
    assert lines[1:3] == ["  line 2: its label is null", "  line 7: its text is null"]
    assert lines[6:] == ["  …"]
    with pytest.raises(DataError, match="has no rows that can be used"):
        read(tmp_path / "a.jsonl", '{"label": "ham", "text": null}\n')


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"label": "ham", "text": "\\ud83d"}', r"line 2: text has \\ud83d, half of a surrogate"),
        ('{"label": "h\\udc00", "text": "a"}', r"line 2: label has \\udc00, half of a surrogate"),
        ('{"label": "ham", "text": NaN}', "line 2 is not valid JSON: NaN is no JSON"),
        ('{"label": -Infinity, "text": "a"}', "line 2 is not valid JSON: -Infinity is no JSON"),
        ('{"label": "ham", "text": "a", "text": "b"}', "line 2 .* 'text' stands twice"),
        ("[" * 100_000, "line 2 is not valid JSON"),
        ("1", "line 2 is not an object with `label` and `text`"),
        ('{"label": "ham", "text": 1}', "line 2 has no text that is a string; its fields are"),
        ('{"label": 1.5, "text": "a"}', "line 2 has no label that is a string"),
        ('{"Kind": "x"}', r"its fields are Kind \(--label-column and --text-column"),
    ],
)
def test_bad_json_is_named(line: str, message: str, tmp_path: Path) -> None:
    good = json.dumps(OBJECTS[0])
    for name in ("a.jsonl", "a.json"):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name, f"{good}\n{line}\n")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", " \r\n\t\n"])
def test_files_without_anything(name: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / name, content)


@pytest.mark.parametrize("name", ["a.tsv", "63", "a.csv"])
@pytest.mark.parametrize("header", ["", "label\ttext\n", "label\ttext\r"])
@pytest.mark.parametrize("other", ["\n", "\r\n"])
def test_carriage_returns_beside_other_ends_swallow_no_row(
    name: str, header: str, other: str, tmp_path: Path
) -> None:
    rows = [("ham", f"message {number}") for number in range(190)]
    lines = [f"{label}\t{text}" for label, text in rows]
    content = "".join(
        line + (other if number % 10 == 9 else "\r") for number, line in enumerate(lines)
    )
    if name == "a.csv" and not header:
        header = "label\ttext\r"
    assert read(tmp_path / name, header + content) == rows
    objects = "\r".join(json.dumps({"label": a, "text": b}) for a, b in rows)
    assert read(tmp_path / "a.jsonl", objects + other) == rows


def test_carriage_returns_that_end_no_row_are_refused(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", "ham\thi\rspam\tyo\r\n") == [("ham", "hi"), ("spam", "yo")]
    for name, content in (
        ("a.tsv", "ham\tone\rtwo\nspam\tthree\n"),
        ("a.tsv", "label\ttext\nham\tone\rtwo\nspam\tthree\n"),
        ("a.csv", "label,text\nham,one\rtwo\nspam,three\n"),
        ("a.jsonl", '{"label": "ham", "text": "a\rb"}\n{"label": "ham", "text": "c"}\n'),
    ):
        with pytest.raises(DataError, match=rf"{name}: line [123] (has no t|is not valid)"):
            read(tmp_path / name, content)
    quoted = 'label,text\nham,"one\rtwo"\nspam,three\n'
    assert read(tmp_path / "a.csv", quoted) == [("ham", "one\rtwo"), ("spam", "three")]


def test_excels_line_may_end_with_a_carriage_return(tmp_path: Path) -> None:
    content = "\rsep=;\rlabel;text\rham;a\r"
    assert read(tmp_path / "a.csv", content) == [("ham", "a")]
    with pytest.raises(DataError, match="line 5 has no text"):
        read(tmp_path / "a.csv", content + "spam\r")


@pytest.mark.parametrize("names", [("Label", "Text"), ("LABEL", " text "), ("label", "TEXT")])
def test_fields_of_json_are_found_whatever_their_case(
    names: tuple[str, str], tmp_path: Path
) -> None:
    rows = [dict(zip(names, row, strict=True)) for row in ROWS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in (("a.jsonl", lines), ("a.json", json.dumps(rows)), ("63", lines)):
        assert read(tmp_path / name, content) == ROWS


def test_whole_numbers_with_a_point_are_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"label": label, "text": "a"} for label in (0.0, 1.0, -2.0, None)]
    found = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert [label for label, _ in found] == ["0", "1", "-2"]
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for last in (None, float("nan")):
        table = pyarrow.table({"label": [0.0, 1.0, -2.0, last], "text": ["a"] * 4})
        parquet.write_table(table, tmp_path / "a.parquet")
        capsys.readouterr()
        labels = [e.label for e in read_labelled(tmp_path / "a.parquet")]
        assert labels == ["0", "1", "-2"]
        assert "row 4: its label is null" in capsys.readouterr().err


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["", "\n"])
def test_one_object_is_one_row(indent: int | None, end: str, tmp_path: Path) -> None:
    row = {"label": "ham", "text": "a"}
    for name in ("a.json", *(["a.jsonl"] if indent is None else [])):
        assert read(tmp_path / name, json.dumps(row, indent=indent) + end) == [("ham", "a")]
    with pytest.raises(DataError, match="must hold a list of objects; it is an object with data"):
        read(tmp_path / "a.json", json.dumps({"data": [row]}, indent=indent))
