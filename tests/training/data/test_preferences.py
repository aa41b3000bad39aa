"""Preference pairs: reading, what is dropped, and the split."""

import json
from pathlib import Path

import pytest

from model.errors import DataError
from model.prompts import Message
from training.data.instructions import load_instructions
from training.data.preferences import Preference, load_preferences, read_preferences

Rows = list[dict[str, str]]


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_all_pairs_are_kept_and_counted(preference_rows: Rows, tmp_path: Path) -> None:
    data = load_preferences([write(tmp_path / "a.json", preference_rows)])
    kept = [*data.train, *data.val, *data.test]
    assert {vars(row)["chosen"] for row in kept} == {row["chosen"] for row in preference_rows}
    assert len(kept) == data.rows == len(preference_rows)
    assert (data.duplicates, data.equal, data.equal_at) == (0, 0, ())
    assert data.sources[0]["rows"] == len(preference_rows)


def test_the_input_may_be_missing_and_other_fields_are_left_alone(tmp_path: Path) -> None:
    rows = [{"instruction": "Say it.", "output": "x", "chosen": "a", "rejected": "b"}]
    row = read_preferences(write(tmp_path / "a.json", rows))[0]
    assert (row.instruction, row.input, row.chosen, row.rejected) == ("Say it.", "", "a", "b")


def test_equal_answers_are_dropped_named_and_counted(preference_rows: Rows, tmp_path: Path) -> None:
    rows = [dict(row) for row in preference_rows]
    rows[3]["chosen"] = rows[3]["rejected"]
    rows[8]["chosen"] = rows[8]["rejected"] + "\n"
    path = write(tmp_path / "a.json", rows)
    data = load_preferences([path])
    assert (data.equal, data.equal_at) == (2, (f"{path}: row 4, 9",))
    kept = [*data.train, *data.val, *data.test]
    assert len(kept) == len(rows) - 2
    assert all(row.chosen.strip() != row.rejected.strip() for row in kept)
    many = [{**row, "chosen": row["rejected"]} for row in rows[:30]]
    data = load_preferences([path, write(tmp_path / "b.json", many)])
    assert data.equal == 32
    assert data.equal_at[1].endswith("row 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …")


def test_a_repeated_pair_is_dropped_and_another_pair_of_the_question_is_not(
    preference_rows: Rows, tmp_path: Path
) -> None:
    first = preference_rows[0]
    loud = {name: text.upper() for name, text in first.items()}
    other = {**first, "rejected": "something else"}
    data = load_preferences([write(tmp_path / "a.json", [*preference_rows, loud, other])])
    assert data.duplicates == 1
    parts = [
        part
        for part in (data.train, data.val, data.test)
        for row in part
        if row.input == first["input"] and row.instruction == first["instruction"]
    ]
    assert len(parts) == 2
    assert parts[0] is parts[1]


def test_a_question_is_in_the_part_that_instruction_tuning_puts_it_into(
    preference_rows: Rows, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.json", [{**row, "output": "x"} for row in preference_rows])
    pairs, instructions = load_preferences([path]), load_instructions([path])
    for name in ("train", "val", "test"):
        found = {row.question.identity for row in getattr(pairs, name)}
        assert found == {row.identity for row in getattr(instructions, name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": 3}, "row 2 has no chosen that is a string"),
        ({"rejected": 3}, "row 2 has no rejected that is a string"),
        ({"instruction": 3}, "row 2 has no instruction that is a string"),
        ({"input": ["a"]}, "row 2 has no input that is a string"),
        ({"chosen": " \n"}, "row 2 has an empty chosen"),
        ({"rejected": ""}, "row 2 has an empty rejected"),
    ],
)
def test_bad_rows_are_named(
    change: dict[str, object], message: str, preference_rows: Rows, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.json", [preference_rows[0], {**preference_rows[1], **change}])
    with pytest.raises(DataError, match=message) as error:
        read_preferences(path)
    assert str(path) in str(error.value)


def test_a_missing_field_is_named(preference_rows: Rows, tmp_path: Path) -> None:
    row = {k: v for k, v in preference_rows[0].items() if k != "rejected"}
    with pytest.raises(DataError, match="row 1 has no rejected"):
        read_preferences(write(tmp_path / "a.json", [row]))
    with pytest.raises(DataError, match="row 1 is not an object with `instruction`"):
        read_preferences(write(tmp_path / "b.json", ["text"]))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED = [turn("user", "a?"), turn("assistant", "A"), turn("user", "b?")]
GOOD, BAD = [turn("assistant", "good")], [turn("assistant", "bad")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"prompt": "b?", "chosen": ASKED + GOOD, "rejected": ASKED + BAD, "score": 1.5},
        {"prompt": ASKED, "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"prompt": ASKED, "chosen": "good", "rejected": "bad"},
    ],
)
def test_pairs_of_conversations(row: dict[str, object], tmp_path: Path) -> None:
    earlier = (Message("user", "a?"), Message("assistant", "A"))
    expected = Preference("b?", "", "good", "bad", earlier)
    assert read_preferences(write(tmp_path / "a.json", [row])) == [expected]
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert read_preferences(tmp_path / "a.jsonl") == [expected]
    assert expected.question.earlier == earlier


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a?", "chosen": "good", "rejected": "bad"},
        {"prompt": "a?", "chosen": GOOD, "rejected": BAD},
        {"prompt": ASKED[:1], "chosen": GOOD, "rejected": BAD},
        {"prompt": [turn("system", ""), *ASKED[:1]], "chosen": GOOD, "rejected": BAD},
        {"chosen": ASKED[:1] + GOOD, "rejected": ASKED[:1] + BAD},
        {"instruction": "a?", "input": None, "chosen": "good", "rejected": "bad"},
    ],
)
def test_pairs_of_single_questions(row: dict[str, object], tmp_path: Path) -> None:
    found = read_preferences(write(tmp_path / "a.json", [row]))
    assert found == [Preference("a?", "", "good", "bad")]


def test_equal_conversations_are_pairs_with_equal_answers(tmp_path: Path) -> None:
    row = {"chosen": ASKED + GOOD, "rejected": ASKED + GOOD}
    assert read_preferences(write(tmp_path / "a.json", [row]))[0].equal


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": ASKED, "rejected": ASKED[:1] + BAD},
        {"prompt": ASKED, "chosen": GOOD + ASKED[:1], "rejected": BAD},
        {"chosen": GOOD, "rejected": BAD},
        {"prompt": ASKED[:2], "chosen": GOOD, "rejected": BAD},
        {"prompt": [*ASKED, turn("tool", "4")], "chosen": GOOD, "rejected": BAD},
    ],
)
def test_pairs_of_other_than_two_answers_are_left_out_and_named(
    row: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json", [row, {"prompt": "a?", "chosen": "b", "rejected": "c"}])
    assert read_preferences(path) == [Preference("a?", "", "b", "c")]
    assert f"{path}: 1 of 2 rows are left out:\n  row 1: " in capsys.readouterr().err


def test_halves_of_surrogate_pairs_are_refused(tmp_path: Path) -> None:
    for name in ("prompt", "chosen", "rejected"):
        row = {"prompt": "a", "chosen": "b", "rejected": "c", name: "\udc00"}
        with pytest.raises(DataError, match=rf"row 1: {name} has .udc00, half of a surrogate"):
            read_preferences(write(tmp_path / "a.json", [row]))


def test_too_few_pairs_for_three_parts(preference_rows: Rows, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", preference_rows[:1])
    with pytest.raises(DataError, match=r"of 1 distinct pairs .* none falls into"):
        load_preferences([path])


def test_the_books_file(real_data: Path) -> None:
    data = load_preferences([real_data / "instructions" / "instruction-data-with-preference.json"])
    assert (data.rows, data.duplicates, data.equal) == (1100, 0, 6)
    assert "row 123, 227, 401, 567, 629, 677" in data.equal_at[0]
    assert len(data.train) + len(data.val) + len(data.test) == 1094


@pytest.mark.parametrize(
    "header",
    [
        "instruction,Input,Chosen,Rejected",
        "INSTRUCTION, input ,CHOSEN,rejected",
        "Prompt,Input,Chosen,Rejected",
        "prompt,INPUT,chosen,rejected",
    ],
)
def test_columns_are_found_whatever_their_case(header: str, tmp_path: Path) -> None:
    expected = [Preference("a?", "it", "good", "bad")]
    (tmp_path / "a.csv").write_text(f"{header}\na?,it,good,bad\n")
    assert read_preferences(tmp_path / "a.csv") == expected
    (tmp_path / "a.tsv").write_text(f"{header}\na?,it,good,bad\n".replace(",", "\t"))
    assert read_preferences(tmp_path / "a.tsv") == expected
    row = dict(zip(header.split(","), ("a?", "it", "good", "bad"), strict=True))
    assert read_preferences(write(tmp_path / "a.json", [row])) == expected
    doubled = header.split(",")[0].lower()
    (tmp_path / "a.csv").write_text(f"{header},{doubled}\na?,it,good,bad,b?\n")
    with pytest.raises(DataError, match=f"line 1 names `{doubled}` 2 times"):
        read_preferences(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a", "chosen": None, "rejected": "b"}, "its chosen is null"),
        ({"instruction": "a", "chosen": "b", "rejected": None}, "its rejected is null"),
        ({"instruction": None, "chosen": "b", "rejected": "c"}, "its instruction is null"),
        ({"prompt": None, "chosen": "b", "rejected": "c"}, "its prompt is null"),
        ({"prompt": ASKED, "chosen": None, "rejected": BAD}, "its chosen is null"),
        ({"prompt": ASKED, "chosen": GOOD, "rejected": [turn("assistant", "")]}, "message 1 is"),
        ({"prompt": ASKED, "chosen": "", "rejected": "bad"}, "its chosen is empty"),
        ({"prompt": " ", "chosen": GOOD, "rejected": BAD}, "its prompt is empty"),
    ],
)
def test_what_teaches_nothing_is_left_out_and_named(
    row: dict[str, object], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json", [{"prompt": "a?", "chosen": "b", "rejected": "c"}, row])
    assert read_preferences(path) == [Preference("a?", "", "b", "c")]
    err = capsys.readouterr().err
    assert err.startswith(f"{path}: 1 of 2 rows are left out:\n  row 2: {reason}")


def test_the_question_may_be_in_either_of_two_columns(tmp_path: Path) -> None:
    rows = [
        {"instruction": None, "prompt": "a?", "chosen": "b", "rejected": "c"},
        {"instruction": "a?", "prompt": None, "chosen": "b", "rejected": "c"},
    ]
    found = read_preferences(write(tmp_path / "a.json", rows))
    assert found == [Preference("a?", "", "b", "c")] * 2
