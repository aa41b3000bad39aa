"""Chats of several turns as rows: each answer with what was said before it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from model.prompts import Alpaca, Message, instruction_prompt
from model.prompts.parts import Text
from tests.training.data.chat_rows import chat, write
from training.data.conversations import Instruction, read_instructions

Rows = list[dict[str, str]]


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
