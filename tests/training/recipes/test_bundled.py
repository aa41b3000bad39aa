"""The recipe of the bundled adapters, with a stand-in for `penwright-train`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples.answers import parser as answers_parser
from examples.exercises.__main__ import parser as exercises_parser
from examples.notices.__main__ import parser as notices_parser
from training.cli import parser
from training.commands import flags
from training.data.given import Given

FOLDS = "runs/default/folds"
RECIPE = Path(__file__).parents[3] / "training" / "recipes" / "bundled.sh"

# Notes its words, and publishes a card; stops in a command whose --out is $FAIL, its state saved.
STAND_IN = """import json, os, sys
from pathlib import Path
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(words), file=calls)
out = Path(words[words.index("--out") + 1])
if "--run" in words:
    state = Path(words[words.index("--run") + 1], os.environ["STATE"], "last.pt")
    state.parent.mkdir(parents=True, exist_ok=True)
    state.touch()
if out.name == os.environ["FAIL"]:
    sys.exit(1)
out.mkdir(parents=True, exist_ok=True)
made = ["notices.json", "exercises-train.json", "short-answers.json"]
for name in made if words[0] == "-m" else ["card.json"]:
    (out / name).touch()
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    for name in ("penwright-train", "python"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} "{tmp_path}/stand_in.py" "$@"\n')
        program.chmod(0o755)
    return tmp_path


def recipe(work: Path, fail: str = "", state: str = "state") -> tuple[int, list[list[str]]]:
    """The exit code, and the words of each command; the last is that of the folds, which run beside
    the others."""
    calls = work / "calls"
    calls.write_text("")
    variables = {"PENWRIGHT_DATA": "data", "BIN": str(work / "bin"), "CALLS": str(calls)}
    variables["PENWRIGHT_WEIGHTS"] = str(work / "weights")
    done = subprocess.run(
        ["bash", str(RECIPE)],
        cwd=work,
        env={**os.environ, **variables, "FAIL": fail, "STATE": state},
        capture_output=True,
        timeout=60,
    )
    words = [json.loads(line) for line in calls.read_text().splitlines()]
    return done.returncode, sorted(words, key=lambda each: out_of(each) == FOLDS)


def out_of(words: list[str]) -> str:
    return words[words.index("--out") + 1]


def test_what_is_done_is_not_done_again_and_what_was_stopped_goes_on(work: Path) -> None:
    code, calls = recipe(work, fail="instruct")
    assert code != 0
    assert [words[:2] for words in calls if out_of(words) != FOLDS] == [
        ["import", str(work / "weights" / "SmolLM2-135M-Instruct.Q4_1.gguf")],
        ["-m", "examples.notices"],
        ["-m", "examples.exercises"],
        ["-m", "examples.answers"],
        ["instruct", "--base"],
    ]
    assert not any("--resume" in words for words in calls)
    # They had begun, and were stopped with the rest if they were not done.
    for name in ("folds", "folds.run"):
        shutil.rmtree(work / "runs" / "default" / name, ignore_errors=True)

    code, calls = recipe(work, fail="folds", state="fold-1/state")
    assert code != 0
    assert [out_of(words) for words in calls] == [
        "runs/default/models/instruct",
        "runs/default/without-notices",
        "runs/default/without-uci",
        "runs/default/spam",
        FOLDS,
    ]
    assert ["--resume" in words for words in calls] == [True, *[False] * 4]

    code, calls = recipe(work, fail="spam")
    assert code != 0
    assert [out_of(words) for words in calls] == ["runs/default/models/spam", FOLDS]
    assert ["--resume" in words for words in calls] == [True, True]

    code, calls = recipe(work)
    assert code == 0
    assert ["--resume" in words for words in calls] == [True]
    made = work / "checkpoints" / "default"
    assert sorted(path.name for path in made.iterdir()) == [
        *("base", "instruct", "models.json", "spam")
    ]
    assert not (work / "runs" / "default" / "models").exists()


def test_a_set_that_was_there_is_replaced_as_a_whole(work: Path) -> None:
    old = work / "checkpoints" / "default" / "old"
    old.mkdir(parents=True)
    assert recipe(work, fail="instruct")[0] != 0
    assert old.is_dir()
    assert recipe(work)[0] == 0
    assert not old.exists()
    assert not (work / "checkpoints" / "default.old").exists()


def test_its_commands_are_ones_that_there_are(work: Path) -> None:
    """With flags that each of them takes, and no source that is learnt without its licence."""
    code, calls = recipe(work)
    assert code == 0
    assert notices_parser().parse_args(calls[1][2:]).out == Path("runs/default/notices")
    assert exercises_parser().parse_args(calls[2][2:]).out == Path("runs/default/exercises")
    assert answers_parser().parse_args(calls[3][2:]).out == Path("runs/default/answers")
    assert parser().parse_args(calls[0]).leave_weights == "make weights"
    follower, *without, trained, args, folds = (parser().parse_args(words) for words in calls[4:])
    assert len(follower.licence) == len(follower.data) == len(follower.repeat)
    assert flags.loop(follower).epochs
    for classifier in (folds, *without, trained, args):
        assert flags.loop(classifier).epochs
        assert flags.lengths(classifier).cut
        assert len(classifier.licence) == len(classifier.data)
    given = flags.given(args)
    assert isinstance(given, Given)
    # Each source validates and tests; of the notices, files of their own do.
    assert [path.name for path in args.data[:3]] == [path.name for path in given.val[:3]]
    assert args.data[:3] == list(given.test[:3])
    assert [Path(files[-1]).name for files in (args.data, given.val, given.test)] == [
        *("notices-train.jsonl", "notices-val.jsonl", "notices-test.jsonl")
    ]
    # Each of two alone tests what learns from the others, and all that stands on the card.
    for number, other in zip((3, 0), without, strict=True):
        given = flags.given(other)
        assert given.test == (flags.given(args).test[number],)
        assert other.data == [*args.data[:number], *args.data[number + 1 :]]
        assert len(given.val) == 3
        assert other.licence == [*args.licence[:number], *args.licence[number + 1 :]]
        assert not set(given.val) & set(given.test)
    assert args.beside == [each.out for each in (folds, *without)]
    # What is published is what was trained.
    told = {"out", "beside", "resume"}
    assert {k: v for k, v in vars(args).items() if k not in told} == {
        k: v for k, v in vars(trained).items() if k not in told
    }
