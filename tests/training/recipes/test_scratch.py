"""The recipe of the models from scratch, with a stand-in for `penwright-train`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.cli import parser
from training.commands import flags

RECIPE = Path(__file__).parents[3] / "training" / "recipes" / "scratch.sh"

# Publishes what $CONTENT says, and fails in the command that $FAIL names.
STAND_IN = """#!/usr/bin/env bash
set -e
echo "$@" >>"$CALLS"
[ "$1" != "$FAIL" ]
while [ $# -gt 0 ]; do
  case $1 in --out) out=$2 ;; --run) run=$2 ;; esac
  shift
done
case $out in *.tiktoken) touch "$out"; exit ;; esac
mkdir -p "$out" "$run/state"
echo "$CONTENT" >"$out/card.json"
touch "$run/state/last.pt"
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "penwright-train").write_text(STAND_IN)
    (tmp_path / "bin" / "penwright-train").chmod(0o755)
    exercises = f'#!/bin/bash\nexec "{tmp_path}/bin/penwright-train" exercises "${{@:3}}"\n'
    (tmp_path / "bin" / "python").write_text(exercises)
    (tmp_path / "bin" / "python").chmod(0o755)
    return tmp_path


def recipe(work: Path, content: str, fail: str = "") -> tuple[int, dict[str, bool]]:
    """The exit code, and of each command whether it resumed."""
    calls = work / "calls"
    calls.write_text("")
    variables = {"PENWRIGHT_DATA": "data", "BIN": str(work / "bin"), "CALLS": str(calls)}
    done = subprocess.run(
        ["bash", str(RECIPE)],
        cwd=work,
        env={**os.environ, **variables, "CONTENT": content, "FAIL": fail},
        capture_output=True,
        timeout=60,
    )
    lines = calls.read_text().splitlines()
    return done.returncode, {line.split()[0]: "--resume" in line for line in lines}


def published(work: Path) -> dict[str, str]:
    directory = work / "checkpoints" / "scratch"
    return {path.parent.name: path.read_text().strip() for path in directory.glob("*/card.json")}


def test_the_set_is_never_a_mix_and_adapters_follow_their_base(work: Path) -> None:
    code, resumed = recipe(work, "first")
    assert code == 0
    commands = ("tokenizer", "exercises", "pretrain", "classify", "instruct")
    assert resumed == dict.fromkeys(commands, False)
    first = {"base": "first", "spam": "first", "instruct": "first"}
    assert published(work) == first
    about = work / "checkpoints/scratch/README.md"
    about.write_text("what it is")
    assert (work / "checkpoints/scratch/models.json").is_file()

    code, resumed = recipe(work, "second", fail="instruct")
    assert code != 0
    assert resumed == {"exercises": False, "pretrain": True, "classify": False, "instruct": False}
    assert published(work) == first

    code, resumed = recipe(work, "second")
    assert code == 0
    # The base is done, and so is not trained again.
    assert resumed == {"exercises": False, "classify": True, "instruct": False}
    assert published(work) == dict.fromkeys(first, "second")
    assert about.read_text() == "what it is"
    assert [path.name for path in (work / "checkpoints").iterdir()] == ["scratch"]


def test_its_commands_are_ones_that_there_are(tmp_path: Path) -> None:
    """With flags that each of them takes."""
    calls = tmp_path / "calls"
    (tmp_path / "penwright-train").write_text(
        f"#!{sys.executable}\nimport json, sys\nfrom pathlib import Path\n"
        f'with open({str(calls)!r}, "a") as file:\n    print(json.dumps(sys.argv[1:]), file=file)\n'
        'out = Path(sys.argv[sys.argv.index("--out") + 1])\n'
        "out.parent.mkdir(parents=True, exist_ok=True)\n"
        "if out.suffix:\n    out.touch()\n"
        'else:\n    out.mkdir(exist_ok=True)\n    (out / "card.json").write_text("{}")\n'
    )
    (tmp_path / "python").write_text("#!/bin/sh\n")
    for name in ("penwright-train", "python"):
        (tmp_path / name).chmod(0o755)
    variables = {"PENWRIGHT_DATA": "data", "BIN": str(tmp_path)}
    subprocess.run(
        ["bash", str(RECIPE)],
        cwd=tmp_path,
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        timeout=60,
    )
    commands = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [words[0] for words in commands] == [
        *("tokenizer", "pretrain", "pretrain", "pretrain", "classify", "instruct")
    ]
    for words in commands:
        args = parser().parse_args(words)
        if words[0] != "tokenizer":
            assert flags.loop(args).steps or flags.loop(args).epochs
