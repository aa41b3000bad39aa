"""Instruction files: the forms that rows may have, and bad rows, which are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from model.prompts import Message
from tests.training.data.chat_rows import chat, write
from training.data.conversations import Instruction, read_instructions

Rows = list[dict[str, str]]


def test_lines_and_chats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    rows = [
        {"instruction": "Say a.", "output": "a", "kind": "letters", "accept": ["b"]},
        chat("user: Say c.", "assistant: c"),
        chat("system: Be brief.", "user: Say d.", "assistant: d"),
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    assert list(read_instructions(path)) == [
        Instruction("Say a.", "", "a", "letters", accept=("b",)),
        Instruction("Say c.", "", "c"),
        Instruction("Say d.", "", "d", earlier=(Message("system", "Be brief."),)),
    ]


def test_tables_of_instructions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('Instruction,input,Output\n"Say, a",,a\nSay b,it,b\n')
    assert list(read_instructions(tmp_path / "a.csv")) == [
        Instruction("Say, a", "", "a"),
        Instruction("Say b", "it", "b"),
    ]
    (tmp_path / "a.csv").write_text("question,answer\na,b\n")
    with pytest.raises(DataError, match=r"must name `instruction` and `output`$"):
        list(read_instructions(tmp_path / "a.csv"))


def test_the_name_need_not_say_which_json_it_is(tmp_path: Path, instruction_rows: Rows) -> None:
    expected = list(read_instructions(write(tmp_path / "a.json", instruction_rows)))
    lines = "".join(json.dumps(row) + "\n" for row in instruction_rows)
    for name, content in (
        ("b.json", lines),
        ("63", lines),
        ("B.JSONL", lines),
        ("c.jsonl", json.dumps(instruction_rows)),
        ("63", json.dumps(instruction_rows)),
    ):
        (tmp_path / name).write_text(content)
        assert list(read_instructions(tmp_path / name)) == expected, name


HALF = "\ud83d"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"instruction": HALF, "output": "a"}, "instruction"),
        ({"instruction": "a", "input": HALF, "output": "a"}, "input"),
        ({"instruction": "a", "output": HALF}, "output"),
        ({"instruction": "a", "output": "a", "kind": HALF}, "kind"),
        ({"instruction": "a", "output": "a", "accept": [HALF]}, "accept"),
        (chat("user: a", f"assistant: {HALF}"), "message 2"),
    ],
)
def test_halves_of_surrogate_pairs_are_refused(
    row: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"a\.json: row 1: {field} has .ud83d, half of a surr"):
        list(read_instructions(write(tmp_path / "a.json", [row])))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ('{"instruction": "a", "output": NaN}', "line 2 is not valid JSON: NaN is no JSON"),
        (json.dumps(chat("bot: a", "user: b", "assistant: c")), "message 1 is of 'bot'"),
        ('{"messages": [{"role": "user"}]}', "line 2: message 1 has no content"),
        ('{"instruction": "a", "output": " "}', "line 2 has an empty output"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(chat('user: a', 'assistant: b'))}\n{row}\n")
    with pytest.raises(DataError) as error:
        list(read_instructions(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("instruction", "needs"),
    [
        ("From the passage provided, extract the name of the king.", True),
        ("Given a reference text about Beavers, tell me what they eat.", True),
        ("Based on this paragraph, when was she born?", True),
        ("Summarize the text below.", True),
        ("Write a short paragraph about bridges.", False),
        ("Provide a synonym for 'passage'.", False),
        ("Count the words of this text: one two three four five six seven eight", False),
        ("What is the capital of France?", False),
    ],
)
def test_rows_about_a_text_that_is_not_there(instruction: str, needs: bool) -> None:
    assert Instruction(instruction, "", "x").needs_a_passage == needs
    assert not Instruction(instruction, "A text.", "x").needs_a_passage


NAMES = ("instruction", "input", "output", "kind", "accept", "unique")


CELLS = ("Say it.", "home", "yes", "words", "yep", "False")


ROW = Instruction("Say it.", "home", "yes", "words", False, ("yep",))


@pytest.mark.parametrize("spell", [str, str.upper, str.title, lambda name: f" {name} "])
@pytest.mark.parametrize(("form", "separator"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_optional_columns_are_found_whatever_their_case(
    spell: Any, form: str, separator: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    header = separator.join(map(spell, NAMES))
    path.write_text(f"{header}\n{separator.join(CELLS)}\n")
    assert list(read_instructions(path)) == [ROW]
    fields = {**dict(zip(map(spell, NAMES), CELLS, strict=True)), spell("accept"): ["yep"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(fields) + "\n")
    assert list(read_instructions(tmp_path / "a.jsonl")) == [ROW]
    assert list(read_instructions(write(tmp_path / "a.json", [fields]))) == [ROW]


def test_optional_columns_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {**dict(zip(map(str.title, NAMES), CELLS, strict=True)), "Accept": ["yep"]}
    parquet.write_table(
        pyarrow.Table.from_pylist([{**row, "Unique": False}]), tmp_path / "a.parquet"
    )
    assert list(read_instructions(tmp_path / "a.parquet")) == [ROW]
    turns = chat("user: a?", "assistant: A")["messages"]
    parquet.write_table(pyarrow.Table.from_pylist([{"Messages": turns}]), tmp_path / "b.parquet")
    assert list(read_instructions(tmp_path / "b.parquet")) == [Instruction("a?", "", "A")]


@pytest.mark.parametrize("doubled", ["input", "Input", "kind", " UNIQUE", "Messages", "output"])
def test_an_optional_column_named_twice_is_refused(doubled: str, tmp_path: Path) -> None:
    names = ["instruction", "input", "output", "kind", "unique", "messages"]
    path = tmp_path / "a.csv"
    path.write_text(",".join([*names, doubled]) + "\n" + "a," * 6 + "a\n")
    message = f"line 1 names `{doubled.strip().lower()}` 2 times"
    with pytest.raises(DataError, match=message):
        list(read_instructions(path))
    if doubled not in names:
        row = dict.fromkeys([*names, doubled], "a")
        (tmp_path / "a.jsonl").write_text(json.dumps(row))
        with pytest.raises(DataError, match=message):
            list(read_instructions(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("name", "cell", "expected"),
    [
        ("accept", "", ()),
        ("accept", '["a", "b"]', ("a", "b")),
        ("accept", "[a", None),
        ("accept", 3, None),
        ("unique", "", True),
        ("unique", "TRUE", True),
        ("unique", "false", False),
        ("unique", None, True),
        ("unique", "perhaps", None),
        ("kind", 3, "3"),
        ("kind", None, ""),
        ("kind", ["a"], None),
    ],
)
def test_what_optional_fields_may_be(name: str, cell: Any, expected: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"instruction": "a", "output": "b", name: cell}])
    if expected is not None:
        (row,) = read_instructions(path)
        assert getattr(row, name) == expected
        return
    with pytest.raises(DataError, match=rf"a\.json: row 1.* {name}"):
        list(read_instructions(path))
