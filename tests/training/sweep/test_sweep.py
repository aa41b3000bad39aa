"""A sweep: what it searches, what it records, and that it goes on where it stopped."""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import PenwrightError, UsageError
from training.cli import main
from training.sweep import trial
from training.sweep.space import Choice, Range, parse_space
from training.sweep.study import sweep
from training.sweep.trial import Plan

Cli = Callable[..., tuple[int, str]]

TRIAL = """
import json, os, signal, sys, time
from pathlib import Path
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
x, mode = float(flags["--x"]), flags.get("--mode", os.environ.get("TRIAL", "good"))
run = Path(flags["--out"] + ".run")
run.mkdir(parents=True)
def evaluation(step, loss):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "val_loss": loss, "val_f1": 1 - loss}) + "\\n")
        file.write(json.dumps({"step": step + 1, "loss": loss}) + "\\n")
if mode == "crash":
    print("penwright-train classify: x is too large", file=sys.stderr)
    sys.exit(1)
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
evaluation(0, 99.0)
evaluation(5, (x - 3) ** 2 + 90 * (mode == "slow"))
if mode == "slow":
    time.sleep(60)
evaluation(10, (x - 3) ** 2 + 1)
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A sweep of a stand-in for a training, which takes no time."""
    program = tmp_path / "program.py"
    program.write_text(TRIAL)
    return Plan(
        words=("classify",),
        space={"x": Range(0.0, 10.0)},
        directory=tmp_path / "sweep",
        trials=3,
        metric="val_loss",
        direction="minimize",
        keep_best=True,
        seed=1,
        prune=False,
        program=(sys.executable, str(program)),
    )


def outcomes(trials: list[object]) -> list[tuple[object, ...]]:
    return [(t.state.name, t.params, t.value) for t in trials]  # type: ignore[attr-defined]


def test_judges_by_the_weights_that_are_published(plan: Plan) -> None:
    plan = replace(plan, trials=1)
    best, last = sweep(plan), sweep(replace(plan, keep_best=False, directory=plan.directory / "b"))
    for one, other in zip(best, last, strict=True):
        x = one.params["x"]
        assert one.params == other.params
        assert one.value == pytest.approx((x - 3) ** 2, abs=0.01)  # flags have four digits
        assert other.value == pytest.approx(one.value + 1, abs=1e-6)


def test_a_sweep_that_was_stopped_goes_on_as_if_it_had_not_been(plan: Plan) -> None:
    whole = sweep(plan)
    parts = replace(plan, directory=plan.directory / "parts")
    assert outcomes(sweep(replace(parts, trials=2))) == outcomes(whole[:2])
    assert outcomes(sweep(parts)) == outcomes(whole)
    assert outcomes(sweep(parts)) == outcomes(whole)  # nothing is left to do
    assert sorted(path.name for path in parts.directory.glob("*.run")) == [
        f"trial-{number:04d}.run" for number in range(3)
    ]


def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(plan: Plan) -> None:
    space = {"x": Range(0, 9), "mode": Choice(("good", "crash", "killed"))}
    trials = sweep(replace(plan, space=space, trials=9))
    messages = {t.params["mode"]: t.user_attrs.get("message") for t in trials}
    assert {t.state.name for t in trials if t.params["mode"] == "good"} == {"COMPLETE"}
    assert messages["crash"] == "x is too large"
    assert messages["killed"].startswith("killed by signal 9; see ")


def test_gives_up_when_all_fail(plan: Plan) -> None:
    with pytest.raises(PenwrightError, match="all 3 trials failed; the last one: x is too large"):
        sweep(replace(plan, words=("classify", "--mode", "crash"), trials=20))


def test_stops_a_trial_that_is_worse_than_the_median(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(replace(plan, trials=5))
    monkeypatch.setenv("TRIAL", "slow")  # and bad: the training would take a minute
    started = time.monotonic()
    trials = sweep(replace(plan, trials=6, prune=True))
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert time.monotonic() - started < 45


def test_does_not_compare_trials_whose_steps_differ(plan: Plan) -> None:
    assert plan.comparable
    assert not replace(plan, space={"batch-size": Range(4, 8)}).comparable


KILLED = """
import sys
from pathlib import Path
from training.sweep.space import Range
from training.sweep.study import sweep
from training.sweep.trial import Plan
sweep(Plan(("classify",), {"x": Range(0.0, 10.0)}, Path(sys.argv[1]), 2,
           "val_loss", "minimize", True, 1, False, (sys.executable, sys.argv[2])))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_trial_comes_again(plan: Plan, number: int) -> None:
    plan = replace(plan, trials=2)
    whole = sweep(plan)
    directory = plan.directory / "killed"
    command = [sys.executable, "-c", KILLED, str(directory), plan.program[1]]
    environment = {**os.environ, "TRIAL": "slow"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        metrics = directory / "trial-0000.run" / "metrics.jsonl"
        until = time.monotonic() + 60
        while not metrics.exists() and time.monotonic() < until:
            time.sleep(0.05)
        with pytest.raises(PenwrightError, match="another sweep is at work"):
            sweep(replace(plan, directory=directory))
        os.kill(process.pid, number)
    assert outcomes(sweep(replace(plan, directory=directory))) == outcomes(whole)


def test_refuses_to_mix_sweeps(plan: Plan) -> None:
    sweep(replace(plan, trials=1))
    with pytest.raises(UsageError, match="another search"):
        sweep(replace(plan, space={"x": Range(0.0, 5.0)}))


def test_names_a_metric_that_is_not_there(plan: Plan) -> None:
    with pytest.raises(UsageError, match="--metric is 'val_f2'; the evaluations have val_loss"):
        sweep(replace(plan, metric="val_f2"))


def test_a_file_that_is_no_study_is_named(plan: Plan) -> None:
    plan.directory.mkdir()
    (plan.directory / "study.db").write_text("not a database, but long enough to be taken for one")
    with pytest.raises(PenwrightError, match=r"study\.db: cannot be used"):
        sweep(plan)


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser("program", add_help=False)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--method")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--out")
    return parser


def test_space(parser: ArgumentParser) -> None:
    searches = ["lr=1e-4..1e-2:log", "--rank=4..16", "method=lora,full"]
    assert parse_space(searches, parser) == {
        "lr": Range(1e-4, 1e-2, log=True),
        "rank": Range(4, 16),
        "method": Choice(("lora", "full")),
    }


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("lr", "it must be FLAG=LOW"),
        ("lr=", "it must be FLAG=LOW"),
        ("lrr=1..2", "program has no --lrr; it has fast, lr, method, rank"),
        ("out=a,b", "--out is not for a sweep to choose"),
        ("fast=a,b", "--fast takes no value"),
        ("lr=2..1", "2 must be below 1"),
        ("lr=1..1", "1 must be below 1"),
        ("lr=0..1:log", "with :log the range must begin above 0"),
        ("lr=0..1:lin", "':lin' is unknown"),
        ("lr=0..x", "'x' is no float"),
        ("lr=0..inf", "'inf' must be a finite number"),
        ("lr=0..1..2", "a range is LOW..HIGH"),
        ("rank=1.5..4", "'1.5' is no int"),
        ("rank=4,x", "'x' is no int"),
        ("rank=4", "at least two values"),
        ("rank=4,4", "at least two values"),
        ("method=1..2", "--method takes no number"),
    ],
)
def test_bad_search(search: str, message: str, parser: ArgumentParser) -> None:
    with pytest.raises(UsageError) as caught:
        parse_space([search], parser)
    assert message in str(caught.value)
    assert search.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--trials", 0, "--search", "lr=1,2", "--", "classify"), "--trials is 0"),
        (("--search", "lr=1,2", "--", "serve"), "after -- comes serve; it must be one of pretrain"),
        (("--search", "lr=1,2"), "after -- comes nothing"),
        (("--search", "lr=1,2", "--", "classify", "--out", "x"), "after --: the following"),
        (("--search", "lr=1,2", "--", "classify", "{all}", "--lr", 1), "also given after --"),
        (("--search", "lr=1,2", "--", "classify", "{all}", "--resume"), "--resume is not for"),
        (("--search", "lr=1,2", "--", "classify", "{all}", "--lrx", 1), "--lrx"),
        (("--direction", "up", "--search", "lr=1,2", "--", "classify", "{all}"), "'up'"),
    ],
)
def test_bad_command(flags: tuple[object, ...], message: str, tmp_path: Path, cli: Cli) -> None:
    needed = ("--base", "base", "--data", "data.csv", "--out", tmp_path / "out")
    words = [part for flag in flags for part in (needed if flag == "{all}" else (flag,))]
    code, err = cli("sweep", *words)
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_real_training(
    base_path: Path, spam_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["classify", "--base", base_path, "--data", spam_file, "--out", tmp_path / "out"]
    words = ["sweep", "--trials", 1, "--search", "lr=1e-3..1e-2:log", "--metric", "val_f1", "--"]
    short = ["--steps", 2, "--warmup", 0, "--batch-size", 4, "--threads", 1]
    assert main([str(word) for word in [*words, *command, *short]]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("penwright-train classify --base ")
    assert last.endswith(f"--out {tmp_path / 'out'}")
    assert (tmp_path / "out.sweep" / "trial-0000" / "adapter.json").exists()


def test_trials_share_the_tokens_of_their_text(
    text_file: Path, tokenizer_file: Path, tmp_path: Path, cli: Cli
) -> None:
    data = ("--data", text_file, "--tokenizer", tokenizer_file, "--val-fraction", 0.2)
    shape = ("--preset", "tiny", "--context", 32, "--steps", 2, "--batch-size", 4)
    command = ("pretrain", *data, *shape, "--device", "cpu", "--out", tmp_path / "out")
    study = tmp_path / "study"
    words = ("--trials", 2, "--search", "lr=0.001,0.002", "--study", study, "--", *command)
    code, err = cli("sweep", *words)
    assert code == 0, err
    [tokens] = (study / "tokens").iterdir()
    assert (tokens / "train.bin").stat().st_size > 0
    runs = sorted(study.glob("trial-*.run"))
    assert len(runs) == 2
    assert not any((run / "data").exists() for run in runs)


def test_a_token_cache_that_is_named_is_kept(plan: Plan, tmp_path: Path) -> None:
    own = replace(plan, words=("pretrain", f"--token-cache={tmp_path}"))
    assert trial._shared(own) == trial._shared(plan) == []
    shared = trial._shared(replace(plan, words=("pretrain",)))
    assert shared == ["--token-cache", str(plan.directory / "tokens")]
