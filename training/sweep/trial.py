"""One trial of a sweep: a training in a process of its own, watched through its `metrics.jsonl`."""

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model.checkpoint.atomic import writing
from model.errors import PenwrightError, UsageError
from training.report.tables import read_metrics
from training.sweep.space import Space, flags_of

if TYPE_CHECKING:
    import optuna

Direction = Literal["minimize", "maximize"]

_POLL = 0.2  # seconds between looks at a trial
_PATIENCE = 30  # seconds that a trial has to stop
_STEP_FLAGS = {"accumulate", "batch-size", "context", "eval-every"}
"""Flags that make a step another amount of work: trials that differ in them are not comparable at
the same step."""


@dataclass(frozen=True)
class Plan:
    """What a sweep does."""

    words: tuple[str, ...]
    """The command and the flags that every trial shares, without `--out`."""
    space: Space
    directory: Path
    trials: int
    """In all, those of earlier calls included."""
    metric: str
    """Of the lines of `metrics.jsonl` that evaluations write."""
    direction: Direction
    keep_best: bool
    """Whether the command publishes the weights of the best evaluation, or the last."""
    seed: int
    prune: bool
    program: tuple[str, ...] = (sys.executable, "-m", "training.cli")

    @property
    def identity(self) -> dict[str, Any]:
        """What a sweep that goes on must share with the one before."""
        space = {name: repr(values) for name, values in sorted(self.space.items())}
        settled = {"metric": self.metric, "direction": self.direction, "seed": self.seed}
        return {"command": list(self.words), "search": space, **settled}

    @property
    def comparable(self) -> bool:
        """Whether trials do the same amount of work in a step."""
        return not _STEP_FLAGS & set(self.space)


class TrialFailed(PenwrightError):
    """One trial ended without a result."""


def run_trial(plan: Plan, trial: "optuna.Trial", values: Mapping[str, Any]) -> float:
    """Run the command in a process of its own and watch its evaluations.

    Returns:
        The metric of the weights that it published.

    Raises:
        optuna.TrialPruned: it was stopped early.
        TrialFailed: it ended without a result; the message is its own.
        UsageError: it does not measure `plan.metric`.
    """
    import optuna

    out = plan.directory / f"trial-{trial.number:04d}"
    metrics = Path(f"{out}.run") / "metrics.jsonl"
    metrics.unlink(missing_ok=True)  # of a sweep whose study.db was deleted
    log = Path(f"{out}.log")
    command = [*plan.program, *plan.words, *flags_of(values), *_shared(plan), "--out", str(out)]
    reported = -1
    with writing(log), log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
            for record in _evaluations(metrics, plan.metric):
                if record["step"] > reported:
                    reported = record["step"]
                    trial.report(record[plan.metric], reported)
            if plan.prune and plan.comparable and trial.should_prune():
                raise optuna.TrialPruned
    finally:
        _stop(process)
    if process.returncode:
        raise TrialFailed(_last_words(log, process.returncode))
    return _published(plan, _evaluations(metrics, plan.metric))


def _shared(plan: Plan) -> list[str]:
    """Flags by which trials share what they all would make."""
    own = any(word.partition("=")[0] == "--token-cache" for word in plan.words)
    if plan.words[0] != "pretrain" or own:
        return []
    return ["--token-cache", str(plan.directory / "tokens")]


def _evaluations(metrics: Path, metric: str) -> list[dict[str, Any]]:
    """The records of evaluations so far.

    Raises:
        UsageError: they do not have the metric.
    """
    records = read_metrics(metrics) if metrics.exists() else []
    evaluations = [record for record in records if "val_loss" in record]
    for record in evaluations:
        if metric not in record:
            known = ", ".join(name for name in record if name.startswith("val_"))
            raise UsageError(f"--metric is {metric!r}; the evaluations have {known}")
    return evaluations


def _published(plan: Plan, evaluations: Sequence[dict[str, Any]]) -> float:
    if not evaluations:
        raise TrialFailed("it wrote no evaluation")
    last = evaluations[-1]
    if plan.keep_best:
        last = min(evaluations, key=lambda record: record["val_loss"])
    return float(last[plan.metric])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Let the process save its state and end; then end it."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(log: Path, code: int) -> str:
    """Of a process that failed: its error, which is its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("penwright-train ")]
    said = (own or lines or ["it said nothing"])[-1]
    if code < 0:
        return f"killed by signal {-code}; see {log}"
    return said.partition(": ")[2] if own else f"{said} (exit code {code}; see {log})"
