"""`penwright-train judge`: a real server as the judge, well-behaved and not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import Base, load_base, save_base
from model.prompts import Alpaca
from tests.training.fake_judge import KEY, Answer, FakeJudge
from training.data.conversations import read_instructions
from training.data.instructions import load_instructions
from training.measure.answers import respond
from training.measure.judge import (
    Judge,
    question,
)
from training.measure.marks import Mark, summary

Cli = Callable[..., tuple[int, str]]


def test_the_mean_has_an_interval_and_failures_count_as_0() -> None:
    marks = [Mark(80, "80"), Mark(60, "60"), Mark(0, "good", "no number"), Mark(0, "0")] * 25
    found = summary(marks)
    assert (found["n"], found["failures"]) == (100, 25)
    assert found["score"]["value"] == 35
    low, high = found["score"]["interval"]
    # The standard error is 36 / 10.
    assert low == pytest.approx(35 - 1.96 * 3.57, abs=1)
    assert high == pytest.approx(35 + 1.96 * 3.57, abs=1)
    assert summary(marks) == found
    assert summary([Mark(50, "50")])["score"]["interval"] == [50, 50]


class Command:
    """`penwright-train judge` with the flags that all tests share."""

    def __init__(self, cli: Cli, judge: FakeJudge, base: Path, data: Path, out: Path) -> None:
        self._cli = cli
        self._flags = (base, "--data", data, "--judge-url", judge.url, "--json", out)
        self.out = out
        self.kept = out.with_name(out.name + ".rows.jsonl")

    def __call__(self, *flags: object) -> tuple[int, str]:
        few = ("--max-new-tokens", 4, "--judge-retries", 0, "--judge-timeout", 5)
        return self._cli("judge", *self._flags, *few, *flags)

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found

    @property
    def marks(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.kept.read_text().splitlines()]
        return [line for line in lines if "score" in line]


@pytest.fixture
def command(
    cli: Cli, judge: FakeJudge, base_path: Path, instruction_file: Path, tmp_path: Path
) -> Command:
    return Command(cli, judge, base_path, instruction_file, tmp_path / "judged.json")


def test_the_answers_of_the_checkpoint_are_judged(
    cli: Cli, judge: FakeJudge, base: Base, instruction_file: Path, tmp_path: Path
) -> None:
    """Of the rows, those that did not train it."""
    data = load_instructions([instruction_file])
    rows, follower = data.test, tmp_path / "follower"
    parts = data.parts().content()
    save_base(follower, base.model, base.tokenizer, card={}, task="instruct", parts=parts)
    command = Command(cli, judge, follower, instruction_file, tmp_path / "judged.json")
    judge.script = lambda call, prompt: str(len(prompt) % 100)
    code, err = command()
    assert code == 0, err
    responses = respond(load_base(follower), None, rows, Alpaca(), max_new_tokens=4)
    asked = [question(r.instruction, r.input, r.output, r.response) for r in responses]
    assert sorted(judge.prompts) == sorted(asked)
    report = command.report
    assert [row["response"] for row in report["rows"]] == [r.response for r in responses]
    scores = [len(prompt) % 100 for prompt in asked]
    assert [row["score"] for row in report["rows"]] == scores
    metrics = report["metrics"]["judge"]
    assert metrics["score"]["value"] == pytest.approx(sum(scores) / len(scores))
    assert (metrics["n"], metrics["failures"]) == (len(rows), 0)
    assert report["judge"]["model"] == "marker"
    assert report["checkpoint"]["id"] == load_base(follower).id


def test_the_judge_knows_what_was_said_before(
    cli: Cli, judge: FakeJudge, base_path: Path, tmp_path: Path
) -> None:
    said = ("user", "Who?"), ("assistant", "Robin"), ("user", "And?"), ("assistant", "Tit")
    turns = [{"role": role, "content": content} for role, content in said]
    data = tmp_path / "chats.jsonl"
    data.write_text(json.dumps({"messages": turns}) + "\n")
    command = Command(cli, judge, base_path, data, tmp_path / "judged.json")
    judge.script = lambda call, prompt: "50"
    code, err = command("--rows", "all")
    assert code == 0, err
    assert any("User: Who?\nAssistant: Robin" in prompt for prompt in judge.prompts)
    first, second = command.report["rows"]
    assert (first["earlier"], second["instruction"]) == ([], "And?")
    assert [message["text"] for message in second["earlier"]] == ["Who?", "Robin"]


def test_nonsense_counts_as_0_and_is_reported(
    command: Command, judge: FakeJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.script = lambda call, prompt: "It is \ud83d fine, 90." if call == 1 else "80"
    code, err = command("--rows", "all", "--limit", 4, "--concurrency", 1)
    assert code == 0, err
    metrics = command.report["metrics"]["judge"]
    assert (metrics["n"], metrics["failures"], metrics["score"]["value"]) == (4, 1, 60.0)
    row = command.report["rows"][1]
    assert (row["score"], row["answer"]) == (0, "It is \ud83d fine, 90.")
    assert row["failure"] == "the answer is no whole number from 0 to 100"


def test_what_is_no_answer_of_a_judge_at_all_counts_once_others_came(
    command: Command, judge: FakeJudge
) -> None:
    script: dict[int, Answer] = {1: 400, 2: b"<html>"}
    judge.script = lambda call, prompt: script.get(call, "80")
    code, err = command("--rows", "all", "--limit", 4, "--concurrency", 1)
    assert code == 0, err
    assert [row["score"] for row in command.report["rows"]] == [80, 0, 0, 80]
    assert command.report["rows"][1]["failure"].startswith("HTTP 400")
    assert "<html>" in command.report["rows"][2]["failure"]


@pytest.mark.parametrize("first", [400, b"<html>", 401, 500])
def test_a_wrong_judge_is_noticed_at_once(
    first: Answer, command: Command, judge: FakeJudge
) -> None:
    judge.script = lambda call, prompt: first
    code, err = command()
    assert code == 1
    assert err.splitlines()[-1].startswith(f"penwright-train judge: {judge.url}")
    assert "0 of" in err
    assert len(judge.calls) == 1
    assert command.marks == []
    assert not command.out.exists()


def test_rows_without_an_answer_are_named_and_asked_again(
    command: Command, judge: FakeJudge
) -> None:
    script: dict[int, Answer] = {2: 500, 3: 6.0}
    judge.script = lambda call, prompt: script.get(call, "80")
    code, err = command("--rows", "all", "--limit", 6, "--concurrency", 1, "--judge-timeout", 1)
    assert code == 1
    assert "row 3: " in err
    assert "HTTP 500" in err
    assert "no answer within 1 seconds" in err
    assert "4 of 6 answers have their mark" in err
    assert not command.out.exists(), "a mean that leaves rows out"
    assert len(command.marks) == 4
    asked = judge.prompts
    code, err = command("--rows", "all", "--limit", 6)
    assert code == 0, err
    assert sorted(judge.prompts[6:]) == sorted(asked[2:4])
    assert command.report["metrics"]["judge"]["score"]["value"] == 80


def test_a_judge_that_is_gone_is_not_asked_for_every_row(
    command: Command, judge: FakeJudge
) -> None:
    judge.script = lambda call, prompt: "80" if call == 0 else 503
    code, err = command("--rows", "all", "--limit", 8, "--concurrency", 1)
    assert code == 1
    assert len(judge.calls) == 4
    assert "1 of 8 answers have their mark" in err


def test_rows_without_an_answer_here_and_there_do_not_stop_the_others(
    command: Command, judge: FakeJudge
) -> None:
    judge.script = lambda call, prompt: 503 if call % 2 else "80"
    code, err = command("--rows", "all", "--limit", 8, "--concurrency", 1)
    assert code == 1
    assert "4 of 8 answers have their mark" in err
    assert len(judge.calls) == 8


def test_a_crash_loses_nothing(
    command: Command, judge: FakeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(call: int, prompt: str) -> Answer:
        if call == 3:
            raise KeyboardInterrupt
        return "80"

    original = Judge.ask

    async def interrupted(self: Judge, prompt: str) -> str:
        if len(judge.calls) == 3:
            raise KeyboardInterrupt
        return await original(self, prompt)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "ask", interrupted)
        assert command("--rows", "all", "--limit", 5, "--concurrency", 1)[0] == 130
    assert len(command.marks) == 3
    with command.kept.open("a") as file:  # the crash cut a line off
        file.write('{"row": 4, "sco')
    monkeypatch.setattr("training.commands.judge.respond", None)  # no answer is made again
    code, err = command("--rows", "all", "--limit", 5)
    assert code == 0, err
    assert len(judge.calls) == 5
    assert len(command.marks) == 5
    assert command("--rows", "all", "--limit", 5)[0] == 0
    assert len(judge.calls) == 5, "all was done"


def test_more_rows_may_follow(command: Command, judge: FakeJudge) -> None:
    assert command("--rows", "all", "--limit", 2)[0] == 0
    assert command("--rows", "all", "--limit", 3)[0] == 0
    assert len(judge.calls) == 3
    assert command.report["metrics"]["judge"]["n"] == 3


def test_marks_of_another_judge_are_not_mixed_in(command: Command, judge: FakeJudge) -> None:
    assert command("--rows", "all", "--limit", 2)[0] == 0
    kept = command.kept.read_bytes()
    code, err = command("--rows", "all", "--limit", 2, "--judge-model", "other")
    assert code == 2
    assert "was begun with judge marker, not other; name another --json" in err
    code, err = command("--max-new-tokens", 5)
    assert code == 2
    assert command.kept.read_bytes() == kept
    command.kept.write_text('{"a": 1}\n')
    code, err = command()
    assert code == 1
    assert "was not written by `judge`" in err


def test_several_rows_are_asked_at_a_time(command: Command, judge: FakeJudge) -> None:
    judge.script = lambda call, prompt: 0.3
    code, err = command("--rows", "all", "--limit", 7, "--concurrency", 3)
    assert code == 0, err
    assert judge.most_running == 3


def test_all_rows_can_be_judged(command: Command, judge: FakeJudge, instruction_file: Path) -> None:
    code, err = command("--rows", "all", "--limit", 40)
    assert code == 0, err
    first = next(iter(read_instructions(instruction_file)))
    assert command.report["rows"][0]["instruction"] == first.instruction
    assert command.report["metrics"]["judge"]["n"] == 40


def test_a_question_that_does_not_fit_counts_as_0(
    cli: Cli, judge: FakeJudge, base_path: Path, tmp_path: Path
) -> None:
    rows = [
        {"instruction": "dinner " * 200, "output": "x"},
        {"instruction": "Say bus.", "output": "bus"},
    ]
    data, out = tmp_path / "a.json", tmp_path / "judged.json"
    data.write_text(json.dumps(rows))
    command = Command(cli, judge, base_path, data, out)
    code, err = command("--rows", "all")
    assert code == 0, err
    assert [row["score"] for row in command.report["rows"]] == [0, 70]
    assert "does not fit the checkpoint's context of 128" in command.report["rows"][0]["failure"]
    assert len(judge.calls) == 1


def test_the_key_comes_from_the_environment_and_stays_there(
    command: Command,
    judge: FakeJudge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PENWRIGHT_JUDGE_KEY", KEY)
    code, err = command("--rows", "all", "--limit", 1)
    assert code == 0, err
    assert judge.calls[0]["headers"]["Authorization"] == f"Bearer {KEY}"
    written = command.out.read_text() + command.kept.read_text() + err
    assert KEY not in written
    monkeypatch.setenv("OTHER", "another")
    assert command("--rows", "all", "--limit", 2, "--judge-key-env", "OTHER")[0] == 0
    assert judge.calls[1]["headers"]["Authorization"] == "Bearer another"
    code, err = command("--judge-key-env", KEY)
    assert code == 2
    assert "--judge-key-env names a variable that is not set" in err
    assert KEY not in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--limit", -1), "--limit is -1; it must be at least 0"),
        (("--concurrency", 0), "--concurrency is 0; it must be at least 1"),
        (("--max-new-tokens", 0), "--max-new-tokens is 0"),
        (("--judge-url", "ftp://host"), "--judge-url is ftp://host"),
        (("--judge-api", "other"), "--judge-api is other"),
        (("--json", "."), "--json . is a directory"),
    ],
)
def test_bad_flags(flags: tuple[object, ...], message: str, command: Command) -> None:
    code, err = command(*flags)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_a_classifier_is_not_judged(
    cli: Cli,
    judge: FakeJudge,
    base_path: Path,
    spam_file: Path,
    instruction_file: Path,
    tmp_path: Path,
) -> None:
    spam = tmp_path / "spam"
    few = ("--method", "head", "--steps", 1, "--warmup", 0, "--batch-size", 4)
    code, err = cli(*("classify", "--base", base_path, "--data", spam_file, "--out", spam, *few))
    assert code == 0, err
    code, err = Command(cli, judge, spam, instruction_file, tmp_path / "judged.json")()
    assert code == 2
    assert "is a classifier: it answers no instructions" in err
    assert not judge.calls
