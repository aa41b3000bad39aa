"""How many tokens Muon needs to get where AdamW ends: `penwright-train pretrain`, tuned for both.

    python -m benchmarks.muon --text FILE … --tokenizer FILE --json benchmarks/results/muon.json

A network of 4 layers × 256 is trained on real text once for each learning rate of the grid, with
each optimizer, all else being equal (cosine to 0, the same seed, windows and batches). While the
best rate is the first or the last of its grid, the next one beyond is trained, too. Muon's best
rate is then trained again, from the start and with the whole schedule, on fewer tokens: the result
is the share of AdamW's tokens after which such a run has AdamW's final validation loss, between
neighbouring runs by the logarithm of their tokens.

What is done is kept in the work directory, run by run, and a run that was stopped goes on from its
saved state: the same command may be started again and again, also with --minutes.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.rounds import say

GRID = {"adamw": (1e-3, 2e-3, 4e-3), "muon": (2e-3, 4e-3, 8e-3)}
MOST_RATES = 5
"""Of an optimizer, those beyond the grid included."""
SHARES = (0.75, 0.5)
"""Of the tokens, for the shorter runs of Muon."""
GOAL = 0.75
SHAPES = {
    "4x256": {"context_length": 256, "n_layer": 4, "n_head": 4, "n_embd": 256},
    "tiny": {"context_length": 32, "n_layer": 1, "n_head": 1, "n_embd": 16},
}
STOPPED = 75
"""Exit status when there is more to do."""


@dataclass(frozen=True)
class Plan:
    """What is the same in all runs."""

    work: Path
    text: tuple[Path, ...]
    tokenizer: Path
    shape: str
    tokens: int
    batch: int
    threads: int
    evaluations: int = 20
    """Of each run, evenly spread."""

    def steps(self, share: float) -> int:
        per_step = self.batch * SHAPES[self.shape]["context_length"]
        return max(self.evaluations, round(share * self.tokens / per_step))

    def directory(self, optimizer: str, lr: float, share: float) -> Path:
        return self.work / f"{optimizer}-{lr:g}-{share:g}"

    def arguments(self, optimizer: str, lr: float, share: float) -> list[str]:
        """Of `penwright-train`."""
        directory, steps = self.directory(optimizer, lr, share), self.steps(share)
        resume = (directory / "state" / "last.pt").exists()
        values: dict[str, object] = {
            "tokenizer": self.tokenizer,
            "preset": self.shape,
            "val-fraction": 0.01,
            "out": directory / "checkpoint",
            "run": directory,
            "steps": steps,
            "batch-size": self.batch,
            "optimizer": optimizer,
            "lr": lr,
            "final-lr": 0.0,
            "warmup": steps // 20,
            "eval-every": steps // self.evaluations,
            "eval-batches": 20,
            "save-every": 50,
            "sample-every": 0,
            "threads": self.threads,
        }
        flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        texts = [str(path) for path in self.text]
        return ["pretrain", "--data", *texts, *flags, *(["--resume"] if resume else [])]


class Runs:
    """Trains what is not trained yet.

    Args:
        until: `time.monotonic()` at which the run in progress is stopped; it can be resumed.
    """

    def __init__(self, plan: Plan, until: float | None = None) -> None:
        self._plan = plan
        self._until = until

    def curve(self, optimizer: str, lr: float, share: float = 1.0) -> list[dict[str, float]]:
        """Tokens and validation loss at each evaluation; [] if the training went astray.

        Raises:
            SystemExit: it was stopped, and can be resumed; or the training cannot be run.
        """
        directory = self._plan.directory(optimizer, lr, share)
        done = directory / "curve.json"
        if not done.exists():
            self._share_tokens(directory)
            astray = self._train(optimizer, lr, share)
            found = [] if astray else _evaluations(directory)
            done.write_text(json.dumps(found))
            for leftover in ("checkpoint", "state"):  # large
                shutil.rmtree(directory / leftover, ignore_errors=True)
        curve: list[dict[str, float]] = json.loads(done.read_text())
        final = f"{curve[-1]['val_loss']:.4f}" if curve else "none: it went astray"
        say(f"{optimizer} {lr:g}, {share:g} of the tokens: final loss {final}")
        return curve

    def _train(self, optimizer: str, lr: float, share: float) -> bool:
        """Whether the loss was lost on the way."""
        command = [sys.executable, "-m", "benchmarks.muon", "--pretrain"]
        command += self._plan.arguments(optimizer, lr, share)
        log = self._plan.directory(optimizer, lr, share) / "log.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._plan.threads)}
        asked = False
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

            def stop(*_: object) -> None:
                nonlocal asked
                asked = True
                process.terminate()  # after its step, it saves its state

            previous = signal.signal(signal.SIGTERM, stop)
            try:
                status = process.wait(self._seconds_left())
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                stop()
                status = process.wait()
            finally:
                signal.signal(signal.SIGTERM, previous)
        if status == 0:
            return False
        said = log.read_text("utf-8", "replace")
        last = said.strip().splitlines()[-1] if said.strip() else "nothing was said"
        if asked:
            say(f"{log.parent.name}: {last}")
            raise SystemExit(STOPPED)
        if "is nan" in last or "is inf" in last:
            return True
        raise SystemExit(f"{log}: {last}")

    def _seconds_left(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def _share_tokens(self, directory: Path) -> None:
        """The text is made tokens once: a run finds those of another as if they were its own."""
        directory.mkdir(parents=True, exist_ok=True)
        for meta in sorted(self._plan.work.glob("*/data/meta.json")):
            if not (directory / "data").exists():
                shutil.copytree(meta.parent, directory / "data", copy_function=os.link)


def _evaluations(directory: Path) -> list[dict[str, float]]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    found = [entry for entry in map(json.loads, lines) if "val_loss" in entry]
    return [{"tokens": entry["tokens"], "val_loss": entry["val_loss"]} for entry in found]


def final(curve: Sequence[Mapping[str, float]]) -> float:
    """The validation loss at the end of a run."""
    return curve[-1]["val_loss"] if curve else math.inf


def tune(runs: Runs, optimizer: str, grid: Sequence[float]) -> dict[float, list[dict[str, float]]]:
    """Curves by learning rate."""
    curves = {lr: runs.curve(optimizer, lr) for lr in sorted(grid)}
    while len(curves) < MOST_RATES and (beyond := _beyond(curves)):
        curves[beyond] = runs.curve(optimizer, beyond)
    return dict(sorted(curves.items()))


def best_rate(curves: Mapping[float, Sequence[Mapping[str, float]]]) -> float:
    return min(curves, key=lambda lr: final(curves[lr]))


def _beyond(curves: Mapping[float, Sequence[Mapping[str, float]]]) -> float:
    """The rate to be tried next: twice or half the best one, where that is at an end; else 0."""
    best = best_rate(curves)
    if best == max(curves):
        return best * 2
    return best / 2 if best == min(curves) else 0.0


def tokens_to(loss: float, runs: Sequence[tuple[float, float]]) -> float | None:
    """Share of the tokens whose whole run ends at `loss`.

    Args:
        runs: shares and final losses.

    Returns:
        None if no run gets there; the least share that was run if even that one is better
    """
    before: tuple[float, float] | None = None
    for share, reached in sorted(runs):
        if reached <= loss:
            if before is None:
                return share
            part = (before[1] - loss) / (before[1] - reached)
            return math.exp(math.log(before[0]) + part * math.log(share / before[0]))
        before = (share, reached)
    return None


def first_at(loss: float, curve: Sequence[Mapping[str, float]]) -> float | None:
    """Tokens at the first evaluation of one run with at most `loss`."""
    return next((point["tokens"] for point in curve if point["val_loss"] <= loss), None)


def result_of(
    curves: Mapping[str, Mapping[float, list[dict[str, float]]]],
    shorter: Mapping[float, list[dict[str, float]]],
) -> dict[str, Any]:
    """What it comes to: see the module."""
    best = {name: best_rate(found) for name, found in curves.items()}
    goal = final(curves["adamw"][best["adamw"]])
    whole = curves["muon"][best["muon"]]
    runs = [(1.0, final(whole)), *((share, final(curve)) for share, curve in shorter.items())]
    total = curves["adamw"][best["adamw"]][-1]["tokens"]
    crossed = first_at(goal, whole)
    share = tokens_to(goal, runs)
    return {
        "best_lr": best,
        "lr_at_edge": {n: best[n] in (min(c), max(c)) for n, c in curves.items()},
        "final_loss": {name: final(curves[name][lr]) for name, lr in best.items()},
        "muon_tokens_of_adamw": None if share is None else round(share, 3),
        "at_most": share is not None and share == min(s for s, _ in runs),
        "crossed_within_whole_run": None if crossed is None else round(crossed / total, 3),
        "goal": GOAL,
    }


def plot(
    curves: Mapping[str, Mapping[float, list[dict[str, float]]]],
    shorter: Mapping[float, list[dict[str, float]]],
    path: Path,
) -> None:
    """Validation loss over tokens: the best rates strong, the others faint."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))

    def draw(curve: Sequence[Mapping[str, float]], **how: Any) -> None:
        points = [(point["tokens"] / 1e6, point["val_loss"]) for point in curve[1:]]
        axes.plot(*zip(*points, strict=True), **how)

    for (name, found), colour in zip(curves.items(), ("tab:gray", "tab:blue"), strict=True):
        best = best_rate(found)
        for lr, curve in found.items():
            if curve:
                strong = {"label": f"{name}, lr {lr:g}"} if lr == best else {"alpha": 0.25}
                draw(curve, color=colour, **strong)
    for share, curve in shorter.items():
        draw(curve, color="tab:blue", linestyle="--", label=f"muon, {share:g} of the tokens")
    axes.axhline(final(curves["adamw"][best_rate(curves["adamw"])]), color="tab:gray", lw=0.5)
    axes.set(xlabel="million tokens", ylabel="validation loss per token")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def measure(plan: Plan, grid: Mapping[str, Sequence[float]], until: float | None) -> dict[str, Any]:
    """All runs; curves and the result.

    Raises:
        SystemExit: there is more to do.
    """
    runs = Runs(plan, until)
    curves = {name: tune(runs, name, rates) for name, rates in grid.items()}
    best = best_rate(curves["muon"])
    shorter = {share: runs.curve("muon", best, share) for share in SHARES}
    return {"curves": curves, "shorter": shorter, "result": result_of(curves, shorter)}


def parser() -> argparse.ArgumentParser:
    made = record.parser(__doc__.splitlines()[0])
    made.add_argument("--text", nargs="+", type=Path, required=True, help="text files, .xz too")
    made.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer file")
    made.add_argument("--shape", choices=SHAPES, default="4x256")
    made.add_argument("--tokens", type=int, default=1_500_000, help="of a whole run (1500000)")
    made.add_argument("--batch", type=int, default=8, help="sequences of a step (8)")
    made.add_argument("--adamw", nargs="+", type=float, default=GRID["adamw"], metavar="LR")
    made.add_argument("--muon", nargs="+", type=float, default=GRID["muon"], metavar="LR")
    made.add_argument("--minutes", type=float, help="stop after so many")
    return made


def main() -> None:
    if sys.argv[1:2] == ["--pretrain"]:
        raise SystemExit(pretrain(sys.argv[2:]))
    given = parser().parse_args()
    plan = Plan(
        work=given.work / f"muon-{given.shape}-{given.tokens}",
        text=tuple(path.resolve() for path in given.text),
        tokenizer=given.tokenizer.resolve(),
        shape=given.shape,
        tokens=given.tokens,
        batch=given.batch,
        threads=given.threads,
    )
    until = None if given.minutes is None else time.monotonic() + given.minutes * 60
    found = measure(plan, {"adamw": given.adamw, "muon": given.muon}, until)
    print(json.dumps(found["result"], indent=1))
    shape = {**SHAPES[plan.shape], "tokens": plan.tokens, "batch": plan.batch}
    about = {"text": [path.name for path in plan.text], "steps": plan.steps(1), "shape": shape}
    values = record.record("benchmarks.muon", given, rounds=1, **about, **found)
    record.write(values, given.json)
    if given.json is not None:
        plot(found["curves"], found["shorter"], given.json.with_suffix(".svg"))


def pretrain(arguments: Sequence[str]) -> int:
    """`penwright-train` itself, with the shapes of this benchmark among the presets."""
    from model.architecture import PRESETS, Architecture
    from training.cli import main as penwright_train

    # The tokenizer says how large the vocabulary is.
    for name, shape in SHAPES.items():
        PRESETS[name] = Architecture(
            512,
            shape["context_length"],
            n_layer=shape["n_layer"],
            n_head=shape["n_head"],
            n_embd=shape["n_embd"],
        )
    return penwright_train(list(arguments))


if __name__ == "__main__":
    main()
