"""Which instructions are taken from two larger sets."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from examples import answers
from model.errors import DataError, UsageError


def row(instruction: str, output: str = "An answer", given: str = "") -> dict[str, Any]:
    return {"instruction": instruction, "input": given, "output": output}


def test_the_first_of_each_kind() -> None:
    rows = [{"kind": kind, "output": str(number)} for number, kind in enumerate("abacab")]
    found = answers.few_of_each_kind(rows, 2)
    assert [(each["kind"], each["output"]) for each in found] == [
        *(("a", "0"), ("a", "2"), ("b", "1"), ("b", "5"), ("c", "3"))
    ]


def test_no_answer_needs_a_text_or_is_long() -> None:
    good = [row(f"What is {name}?") for name in ("a lake", "ice")]
    bad = [
        row("Who is named in the passage?"),
        row("Summarise the text below."),
        row("Who is it?", given="It is I."),
        row("What is it?", "x" * 161),
        row("What is it?", "no"),
        row("What are they?", "one\ntwo"),
    ]
    found = answers.short_answers([*bad, *good], 10)
    assert sorted(each["instruction"] for each in found) == ["What is a lake?", "What is ice?"]
    assert answers.short_answers(good, 1) == answers.short_answers(good, 1)


def arguments(work: Path, *words: str) -> Any:
    given = ("--exercises", str(work / "exercises.json"), "--dolly", str(work / "dolly.json.xz"))
    return answers.parser().parse_args([*given, "--out", str(work / "out"), *words])


def test_files_are_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "exercises.json").write_text(json.dumps([{"kind": "sum", **row("1 + 1", "2")}]))
    (tmp_path / "dolly.json.xz").write_bytes(lzma.compress(json.dumps([row("Why?")]).encode()))
    paths = answers.write(arguments(tmp_path))
    assert [len(json.loads(path.read_text())) for path in paths] == [1, 1]
    with pytest.raises(UsageError, match="--answers is 0; it must be above 0"):
        answers.write(arguments(tmp_path, "--answers", "0"))
    for name, content, message in (
        ("exercises.json", json.dumps([row("1 + 1", "2")]).encode(), "lacks 'kind'"),
        ("exercises.json", b"{}", "exercises.json: is no list of rows"),
        ("exercises.json", b"[", "exercises.json: is no JSON"),
        ("exercises.json", b"[1]", "exercises.json: is no list of rows"),
        ("dolly.json.xz", b"{}", "dolly.json.xz: cannot be read"),
    ):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            answers.write(arguments(tmp_path))
        (tmp_path / name).write_bytes(whole)
