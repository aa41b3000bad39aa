"""Instruction files: repeated rows leave before the split, bad rows are named."""

import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from model.prompts import Alpaca, Message, instruction_prompt
from model.prompts.parts import Text
from training.data.conversations import Instruction, read_instructions
from training.data.given import Given
from training.data.instructions import InstructionData, load_instructions

Rows = list[dict[str, str]]


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def identities(data: InstructionData) -> list[set[str]]:
    parts = (data.train, data.val, data.test)
    return [{row.identity.lower() for row in part} for part in parts]


def test_repeated_rows_leave_before_the_split(tmp_path: Path, instruction_rows: Rows) -> None:
    again = [{**row, "instruction": row["instruction"].upper()} for row in instruction_rows]
    data = load_instructions([write(tmp_path / "a.json", instruction_rows + again)])
    assert (data.rows, data.duplicates) == (160, 80)
    parts = identities(data)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 80


def test_the_books_file_has_25_repeated_rows(real_data: Path) -> None:
    data = load_instructions([real_data / "instructions" / "instruction-data.json"])
    assert (data.rows, data.duplicates) == (1100, 25)
    shares = [len(part) / 1075 for part in (data.train, data.val, data.test)]
    assert shares == pytest.approx([0.85, 0.05, 0.10], abs=0.03)


def test_more_files_move_no_row_to_another_part(tmp_path: Path, instruction_rows: Rows) -> None:
    half = load_instructions([write(tmp_path / "a.json", instruction_rows[:60])])
    both = load_instructions(
        [write(tmp_path / "b.json", instruction_rows[60:]), tmp_path / "a.json"]
    )
    for some, more in zip(identities(half), identities(both), strict=True):
        assert some <= more
    assert len(both.train) > len(half.train)


def test_xz_is_unpacked_and_input_may_be_missing(tmp_path: Path, instruction_rows: Rows) -> None:
    rows = [{k: v for k, v in row.items() if v} for row in instruction_rows]
    assert any("input" not in row for row in rows)
    path = tmp_path / "a.json.xz"
    path.write_bytes(lzma.compress(json.dumps(rows).encode()))
    plain = load_instructions([write(tmp_path / "a.json", instruction_rows)])
    assert load_instructions([path]).train == plain.train


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"instruction": "a"', "not valid JSON"),
        ('{"data": [{"instruction": "a", "output": "b"}]}', "must hold a list"),
        ('{"instruction": "a", "output": "b"}', "none falls into the"),
        ("[]", "has no rows"),
        ('[{"instruction": "a", "output": "b"}, {"instruction": "a"}]', "row 2 has no output"),
        ('[{"output": "b"}]', "row 1 has no instruction"),
        ('[{"instruction": "a", "input": "", "output": "  "}]', "row 1 has an empty output"),
        ('[{"instruction": "a", "input": 3, "output": "b"}]', "row 1 has no input"),
        ('["a"]', "row 1 is not an object"),
        ('[{"instruction": "a", "output": "b"}]', "none falls into the"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        load_instructions([path])
    assert str(path) in str(error.value)
    assert message in str(error.value)


def chat(*turns: str) -> dict[str, Any]:
    """Messages of `role: content`."""
    split = [turn.split(": ", 1) for turn in turns]
    return {"messages": [{"role": role, "content": content} for role, content in split]}


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


def said(*turns: str) -> tuple[Message, ...]:
    return tuple(Message(m["role"], m["content"]) for m in chat(*turns)["messages"])


LONG = ("system: Be brief.", "user: a?", "assistant: A", "user: b?", "assistant: B", "user: c?")
ROWS = [
    Instruction("a?", "", "A", earlier=said(LONG[0])),
    Instruction("b?", "", "B", earlier=said(*LONG[:3])),
    Instruction("c?", "", "C", earlier=said(*LONG[:5])),
]


def share_gpt(row: dict[str, Any]) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    turns = [{"from": names[m["role"]], "value": m["content"]} for m in row["messages"]]
    return {"conversations": turns, "id": "x"}


def in_parts(row: dict[str, Any]) -> dict[str, Any]:
    def parts(text: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text[:1]}, {"type": "text", "text": text[1:]}]

    return {"messages": [{**m, "content": parts(m["content"])} for m in row["messages"]]}


def sparse(row: dict[str, Any]) -> dict[str, Any]:
    """As a table of all rows has it."""
    more = {"tool_calls": None, "name": None}
    return {"messages": [{**m, **more} for m in row["messages"]], "conversations": None}


@pytest.mark.parametrize("form", [dict, share_gpt, in_parts, sparse], ids=lambda f: f.__name__)
def test_each_answer_of_a_chat_makes_a_row(form: Any, tmp_path: Path) -> None:
    whole = chat(*LONG, "assistant: C")
    found = list(read_instructions(write(tmp_path / "a.json", [form(whole)])))
    assert found == ROWS
    without = chat("system: ", *LONG[1:], "assistant: C")
    first, second, _ = read_instructions(write(tmp_path / "a.json", [form(without)]))
    assert (first, second.earlier) == (Instruction("a?", "", "A"), said(*LONG[1:3]))
    apart = {**share_gpt(chat(*LONG[1:], "assistant: C")), "system": "Be brief."}
    assert list(read_instructions(write(tmp_path / "a.json", [apart]))) == ROWS
    unanswered = chat(*LONG)  # a question at the end teaches nothing
    assert list(read_instructions(write(tmp_path / "a.json", [form(unanswered)]))) == ROWS[:2]


def test_rows_of_a_chat_are_other_questions_of_one_group() -> None:
    assert len({row.identity for row in ROWS}) == 3
    assert {row.group for row in ROWS} == {Instruction("Be brief.\n\na?", "", "").identity}
    again = Instruction("b?", "", "B")
    assert again.identity not in {row.identity for row in ROWS}
    assert again.group == again.identity
    greeted = Instruction("b?", "", "B", earlier=said("assistant: Hello"))
    assert greeted.group == again.group
    assert not Instruction(
        "Summarize the text above.", "", "x", earlier=said("user: a")
    ).needs_a_passage


def test_messages_give_the_prompt_that_is_served() -> None:
    prompt = "".join(p.text for p in Alpaca().render(ROWS[1].messages) if isinstance(p, Text))
    assert prompt == instruction_prompt("Be brief.\n\nb?", "User: a?\nAssistant: A")
    first = "".join(p.text for p in Alpaca().render(ROWS[0].messages) if isinstance(p, Text))
    assert first == instruction_prompt("Be brief.\n\na?")
    one = Instruction("Be brief.\n\na?", "its input", "A")
    assert Alpaca().render(one.messages) == [Text(instruction_prompt(one.instruction, one.input))]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "tool", "content": "4"}, "message 3 is of a tool"),
        ({"from": "observation", "value": "4"}, "message 3 is of a tool"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "is of a tool"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "message 3 has content of the type image_url",
        ),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "of the type text"),
        ({"role": "user", "content": ["a"]}, "of the type None"),
    ],
)
def test_chats_that_no_template_has_a_place_for_are_left_out(
    turn: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = chat("user: a?", "assistant: A")
    bad = {"messages": [*good["messages"], turn, {"role": "assistant", "content": "B"}]}
    found = list(read_instructions(write(tmp_path / "a.json", [bad, good])))
    assert found == [Instruction("a?", "", "A")]
    err = capsys.readouterr().err
    assert f"{tmp_path / 'a.json'}: 1 of 2 rows are left out:\n  row 1: message 3" in err
    assert reason in err


def test_answers_to_nothing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [chat("assistant: Hello", "user: a?", "assistant: A", "assistant: More")]
    found = list(read_instructions(write(tmp_path / "a.json", rows)))
    hello = Message("assistant", "Hello", learnt=False)
    assert found == [Instruction("a?", "", "A", earlier=(hello,))]
    assert "row 1: message 1, 4 of 4 answers no message of the user" in capsys.readouterr().err


def test_turns_of_weight_0_are_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = chat("user: a?", "assistant: A", "user: b?", "assistant: B")
    for turn, weight in ((0, 0), (1, 0), (3, 1)):
        whole["messages"][turn]["weight"] = weight
    none = chat("user: a?", "assistant: A")
    none["messages"][1]["weight"] = 0
    found = list(read_instructions(write(tmp_path / "a.json", [whole, none])))
    assert [row.output for row in found] == ["B"]
    assert [message.said for message in found[0].messages] == [False, False, False]
    assert (
        "row 2: it has messages of user, assistant; a turn of the assistant that has not the "
        in (capsys.readouterr().err)
    )
    none["messages"][1]["weight"] = 0.5
    with pytest.raises(DataError, match=r"message 2 has the weight 0\.5; it must be 0 or 1"):
        list(read_instructions(write(tmp_path / "a.json", [none])))


def test_a_system_turn_before_the_first_question_is_a_part_of_it() -> None:
    """As it was when it stood in the instruction: rows keep their parts."""
    written = Instruction("Be brief.\n\na?", "", "A")
    assert (ROWS[0].identity, ROWS[0].group) == (written.identity, written.group)
    assert not replace(written, instruction="Be brief.\n\nSum the text up.").needs_a_passage
    summing = replace(ROWS[0], instruction="Summarize the text above.")
    assert not summing.needs_a_passage


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


def test_rows_without_their_passage_are_left_out_and_counted(
    tmp_path: Path, instruction_rows: Rows
) -> None:
    bad = {"instruction": "According to this passage, who won?", "output": "Nobody"}
    data = load_instructions([write(tmp_path / "a.json", [bad, *instruction_rows])])
    assert (data.without_passage, data.duplicates) == (1, 0)
    assert bad["instruction"] not in {row.instruction for row in data.train + data.val + data.test}


def test_repeats_are_of_training_rows_alone(tmp_path: Path, instruction_rows: Rows) -> None:
    one = write(tmp_path / "a.json", instruction_rows[:60])
    two = write(tmp_path / "b.json", instruction_rows[60:])
    once = load_instructions([one, two])
    often = load_instructions([one, two], repeats=(3, 0.5))
    assert (often.val, often.test) == (once.val, once.test)
    first = {row["instruction"] for row in instruction_rows[:60]}
    counts = {row.identity: often.train.count(row) for row in once.train}
    assert {counts[row.identity] for row in once.train if row.instruction in first} == {3}
    others = [counts[row.identity] for row in once.train if row.instruction not in first]
    assert set(others) == {0, 1}


def test_a_test_file_takes_its_rows_out_of_the_others(
    tmp_path: Path, instruction_rows: Rows
) -> None:
    one = write(tmp_path / "a.json", instruction_rows[:60])
    two = write(tmp_path / "b.json", instruction_rows[40:])
    alone = load_instructions([one], given=Given(test=(two,)))
    assert len(alone.test) == 40
    assert len(alone.train) + len(alone.val) == 40
    assert not {row.identity for row in alone.test} & {r.identity for r in alone.train + alone.val}
    # Named by both, a file keeps its split.
    both = load_instructions([one, two], given=Given(test=(one,)))
    parts = load_instructions([one])
    assert set(parts.test) <= set(both.test)
    assert all(
        row.instruction in {r["instruction"] for r in instruction_rows[:60]} for row in both.test
    )


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


def test_chats_are_found_whatever_their_names_case(tmp_path: Path) -> None:
    rows = [
        {"Messages": chat("user: a?", "assistant: A")["messages"]},
        {"Conversations": share_gpt(chat("user: a?", "assistant: A"))["conversations"]},
        {**share_gpt(chat("user: a?", "assistant: A")), "System": "Be brief."},
    ]
    found = list(read_instructions(write(tmp_path / "a.json", rows)))
    assert [row.instruction for row in found] == ["a?", "a?", "a?"]
    assert [row.earlier for row in found] == [(), (), said("system: Be brief.")]


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


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a", "output": None}, "its output is null"),
        ({"instruction": None, "output": "a"}, "its instruction is null"),
        ({"messages": None}, "its messages is null"),
        (chat("user: a"), "it has messages of user; a turn of the assistant must follow"),
        (chat("system: a", "assistant: b"), "it has messages of system, assistant;"),
        (chat("user: a", "assistant:  "), "message 2 is empty"),
        (chat("user: ", "assistant: b"), "message 1 is empty"),
        ({"messages": []}, "it has messages of nobody"),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": None},
                ]
            },
            "message 2 is empty",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": []}]},
            "message 2 is empty",
        ),
        (
            {"conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "b"}]},
            "message 1 is empty",
        ),
    ],
)
def test_what_teaches_nothing_is_left_out_and_named(
    row: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json", [chat("user: a?", "assistant: A"), row])
    assert list(read_instructions(path)) == [Instruction("a?", "", "A")]
    err = capsys.readouterr().err
    assert err.startswith(f"{path}: 1 of 2 rows are left out:\n  row 2: {reason}")
    with pytest.raises(DataError, match="has no rows that can be used"):
        list(read_instructions(write(tmp_path / "b.json", [row])))


def test_a_system_turn_that_is_null_is_no_turn(tmp_path: Path) -> None:
    row = chat("system: x", "user: a?", "assistant: A")
    row["messages"][0]["content"] = None
    found = list(read_instructions(write(tmp_path / "a.json", [row])))
    assert found == [Instruction("a?", "", "A")]


def test_counts_tell_rows_from_parts_of_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part, whole = chat("assistant: Hi", "user: a?", "assistant: A"), chat("user: b?")
    for rows, said_of_them in (
        ([part], "1 of 1 rows are left out in part:"),
        ([part, part, whole], "1 of 3 rows are left out, and 2 more in part:"),
        ([part, whole, whole], "2 of 3 rows are left out, and 1 more in part:"),
    ):
        path = write(tmp_path / "a.json", rows)
        assert len(list(read_instructions(path))) == rows.count(part)
        assert capsys.readouterr().err.startswith(f"{path}: {said_of_them}\n  row 1: ")
