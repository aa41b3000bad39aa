"""Labelled texts: every row is read, repeated ones leave before the split."""

import csv
import json
import lzma
from pathlib import Path

import pytest

from model.errors import DataError
from training.data.documents import text_hash
from training.data.labelled import Example, Reading, read_labelled
from training.data.labelled_parts import LabelledData, load_labelled

Row = tuple[str, str]


def write_tsv(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    return path


def parts(data: LabelledData) -> list[set[str]]:
    return [{text_hash(e.text) for e in part} for part in (data.train, data.val, data.test)]


def test_quotes_are_ordinary_characters(tmp_path: Path, spam_rows: list[Row]) -> None:
    rows = [("ham", 'He said "go'), ("spam", '"Win now'), *spam_rows, ("ham", "I am 5' 6\" tall")]
    found = list(read_labelled(write_tsv(tmp_path / "a.tsv", rows)))
    assert [(e.label, e.text) for e in found] == rows


def test_unusual_line_ends_belong_to_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("ham\tone\u0085two\x0bthree\r\nspam\tfour\n".encode())
    assert [e.text for e in read_labelled(path)] == ["one\u0085two\x0bthree", "four"]


def test_all_forms_give_the_same_rows(tmp_path: Path, spam_rows: list[Row]) -> None:
    rows = [*spam_rows, ("ham", 'with "quotes", commas and é')]
    tsv = write_tsv(tmp_path / "a.tsv", rows)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("label", "text"), *rows])
    lines = [json.dumps({"label": label, "text": text}) for label, text in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.tsv.xz").write_bytes(lzma.compress(tsv.read_bytes()))
    (tmp_path / "b.tsv").write_text("\ufefflabel\ttext\n" + tsv.read_text())
    expected = list(read_labelled(tsv))
    assert len(expected) == len(rows)
    for name in ("a.csv", "a.jsonl", "a.tsv.xz", "b.tsv"):
        assert list(read_labelled(tmp_path / name)) == expected, name


def test_columns_have_any_names(tmp_path: Path, spam_rows: list[Row]) -> None:
    rows = [*spam_rows, ("ham", "with a comma, and more")]
    expected = [Example(*row) for row in rows]
    reading = Reading(label_column="team", text_column="message body")
    table = [
        ("id", "message body", "team"),
        *((i, text, label) for i, (label, text) in enumerate(rows)),
    ]
    for separator in ",;\t":
        with (tmp_path / "a.csv").open("w", newline="") as file:
            csv.writer(file, delimiter=separator).writerows(table)
        assert list(read_labelled(tmp_path / "a.csv", reading)) == expected, separator
    (tmp_path / "a.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in table))
    assert list(read_labelled(tmp_path / "a.tsv", reading)) == expected
    lines = [json.dumps({"team": label, "message body": text, "id": 1}) for label, text in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert list(read_labelled(tmp_path / "a.jsonl", reading)) == expected
    for name in ("a.csv", "a.tsv"):
        with pytest.raises(
            DataError, match=r"line 1 is .* must name `kind` and `message body` \(--lab"
        ):
            list(read_labelled(tmp_path / name, Reading("kind", "message body")))
    with pytest.raises(DataError, match="line 1 has no kind that is a string"):
        list(read_labelled(tmp_path / "a.jsonl", Reading("kind", "message body")))


def test_a_text_may_have_tabs_where_it_is_the_last_column(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("ham\tone\ttwo\nspam\tthree\n")
    assert [e.text for e in read_labelled(path)] == ["one\ttwo", "three"]
    path.write_text("id\tlabel\ttext\n1\tham\tone\ttwo\n")
    assert list(read_labelled(path)) == [Example("ham", "one\ttwo")]


def test_near_duplicates_are_dropped_on_request(tmp_path: Path, spam_rows: list[Row]) -> None:
    rows = [(label, f"{text} {number}!") for label, text in spam_rows for number in (10, 20)]
    path = write_tsv(tmp_path / "a.tsv", rows)
    assert load_labelled([path]).duplicates == 0
    data = load_labelled([path], Reading(distinct="near"))
    assert data.duplicates == len(spam_rows)
    assert {e.text for part in (data.train, data.val, data.test) for e in part} == {
        text for _, text in rows[::2]
    }


def test_undersampling_leaves_as_many_of_each_label(tmp_path: Path, spam_rows: list[Row]) -> None:
    path = write_tsv(tmp_path / "a.tsv", spam_rows)
    data = load_labelled([path], Reading(balance="undersample"))
    assert data.counts() == {
        "train": {"ham": 19, "spam": 19},
        "val": {"ham": 3, "spam": 3},
        "test": {"ham": 7, "spam": 7},
    }
    plain = load_labelled([path])
    for part in ("train", "val", "test"):
        assert set(getattr(data, part)) <= set(getattr(plain, part)), "balancing moves no text"
    left_out = {*plain.train, *plain.val, *plain.test} - {*data.train, *data.val, *data.test}
    assert set(data.unused) == left_out


def test_the_uci_file_is_read_whole(real_data: Path) -> None:
    data = load_labelled([real_data / "spam" / "SMSSpamCollection.tsv"])
    assert data.rows == 5574
    assert data.rows - data.duplicates == len(data.train) + len(data.val) + len(data.test)
    assert sum(map(len, parts(data))) == len(set.union(*parts(data)))


def test_repeated_texts_leave_before_the_split(tmp_path: Path, spam_rows: list[Row]) -> None:
    copies = [(label, f"  {text.upper()} ") for label, text in spam_rows]
    other = [("ham" if label == "spam" else "spam", text) for label, text in spam_rows[:4]]
    data = load_labelled([write_tsv(tmp_path / "a.tsv", [*spam_rows, *copies, *other])])
    plain = load_labelled([write_tsv(tmp_path / "b.tsv", spam_rows)])
    assert (data.duplicates, data.conflicts) == (len(spam_rows) + 4, 4)
    assert (data.train, data.val, data.test) == (plain.train, plain.val, plain.test)


def test_the_split_depends_on_the_texts_alone(tmp_path: Path, spam_rows: list[Row]) -> None:
    forward = load_labelled([write_tsv(tmp_path / "a.tsv", spam_rows)])
    one = write_tsv(tmp_path / "b.tsv", spam_rows[:-41:-1])
    two = write_tsv(tmp_path / "c.tsv", spam_rows[:-40])
    backward = load_labelled([one, two])
    assert parts(forward) == parts(backward)


def test_other_files_move_no_text(tmp_path: Path, spam_rows: list[Row]) -> None:
    """Nor does what is balanced beside it, or which file comes first."""
    one = write_tsv(tmp_path / "a.tsv", spam_rows[:50])
    two = write_tsv(tmp_path / "b.tsv", spam_rows[50:])
    for reading in (Reading(), Reading(balance="undersample")):
        alone = load_labelled([one], reading).parts()
        for files in ([one, two], [two, one]):
            together = load_labelled(files, reading).parts()
            for _, text in spam_rows[:50]:
                parts_of_it = {alone.part(text), together.part(text)} - {"unused"}
                assert len(parts_of_it) <= 1, text
        assert load_labelled([one, two], reading).parts().digest == together.digest


def test_the_parts_have_about_their_shares(real_data: Path) -> None:
    counts = load_labelled([real_data / "spam" / "SMSSpamCollection.tsv"]).counts()
    for label in ("ham", "spam"):
        total = sum(part[label] for part in counts.values())
        for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            assert counts[part][label] / total == pytest.approx(share, abs=0.04)


def test_the_smallest_label_reaches_every_part(tmp_path: Path, spam_rows: list[Row]) -> None:
    rows = [*spam_rows, ("rare", "a"), ("rare", "b"), ("rare", "c")]
    counts = load_labelled([write_tsv(tmp_path / "a.tsv", rows)]).counts()
    assert [counts[part]["rare"] for part in ("train", "val", "test")] == [1, 1, 1]


def test_texts_that_differ_in_digits_stay_together(tmp_path: Path, spam_rows: list[Row]) -> None:
    def number(text: str, base: int) -> str:
        return f"{text} {base + len(text)}"

    rows = [(label, number(text, base)) for label, text in spam_rows for base in (1000, 2000)]
    data = load_labelled([write_tsv(tmp_path / "a.tsv", rows)])
    stems = [{e.text.rsplit(" ", 1)[0] for e in part} for part in (data.train, data.val, data.test)]
    assert data.duplicates == 0
    assert sum(map(len, stems)) == len(set.union(*stems)) == len(spam_rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "ham\thello\n\thello\n", "line 2 has no label"),
        ("a.tsv", "ham\thello\n\nham\t \n", "line 3 has no text"),
        ("a.tsv", "ham\thello\nhello there\n", "line 2 has no tab"),
        ("a.csv", "label,text\nham,hello\n,bye\n", "line 3 has no label"),
        ("a.csv", "label,text\nham\n", "line 2 has no text"),
        ("a.csv", "kind,message\nham,hello\n", "must name `label` and `text`"),
        ("a.jsonl", '{"label": "ham", "text": "a"}\n{"label": "ham"}\n', "line 2 has no text"),
        ("a.jsonl", '{"label": 1.5, "text": "a"}\n', "line 1 has no label"),
        ("a.jsonl", '{"label": "ham", "text": "a"}\n{"label\n', "line 2 is not valid JSON"),
        ("a.jsonl", "[]\n", "line 1 is not an object"),
        ("a.tsv", "ham\ta\nham\tb\nham\tc\n", "the only label is 'ham'"),
        ("a.tsv", "ham\ta\nham\tb\nham\tc\nspam\td\n", "label 'spam' has 1 distinct text (digits"),
        ("a.tsv", "", "is empty"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as error:
        load_labelled([path])
    assert str(path) in str(error.value)
    assert message in str(error.value)
