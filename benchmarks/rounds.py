"""Rounds in which all systems do the same work in turns, and the ratios that come of them.

A round's ratio compares two systems within a few seconds, so that whatever else the machine does
touches both; the median over the rounds is the result. The first round warms up and is dropped.
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.systems import NO_PEERS
from benchmarks.worker import Worker, WorkerFailed

Rates = Mapping[str, float]
"""What a turn gives: a rate (more is better) for each row of the table."""
Turn = Callable[[Worker, int], Rates]
"""Let a worker do the work of this round once."""


@dataclass
class Outcome:
    """One row of the table: a kind of work, done by several systems."""

    work: str
    unit: str
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Of each system, by round."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why a system has no rates."""

    def fail(self, system: str, reason: str) -> None:
        """No figures of this system then: those of other rounds would be misleading."""
        self.rates.pop(system, None)
        self.failed[system] = reason

    def median(self, system: str) -> float:
        return statistics.median(self.rates[system])

    def ratio(self, ours: str, peer: str) -> float:
        """Median over the rounds of how many times faster `ours` is."""
        pairs = zip(self.rates[ours], self.rates[peer], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def best_peer(self, ours: str) -> str | None:
        """The fastest of the others; versions of our own are no peers."""
        peers = [name for name in self.rates if not name.startswith((ours, *NO_PEERS))]
        return max(peers, key=self.median, default=None)

    def to_dict(self, ours: str) -> dict[str, Any]:
        systems = {}
        for name, rates in self.rates.items():
            systems[name] = {
                "median": round(self.median(name), 3),
                "rates": [round(rate, 3) for rate in rates],
            }
            if ours in self.rates and name != ours:
                systems[name]["ours_is_times_faster"] = round(self.ratio(ours, name), 3)
        best = self.best_peer(ours)
        return {
            "work": self.work,
            "unit": self.unit,
            "systems": systems,
            "failed": self.failed,
            "best_peer": best,
        }


@dataclass(frozen=True)
class Work:
    """A kind of work and the rows that it fills."""

    rows: Mapping[str, str]
    """Their units, by name."""
    turns: Mapping[str, tuple[str, Turn]]
    """Who takes part: the worker's system and what it does, by the name in the table."""


def everyone(systems: Sequence[str], turn: Turn) -> dict[str, tuple[str, Turn]]:
    """All systems do the same."""
    return {system: (system, turn) for system in systems}


class Workers:
    """The processes of several systems; those that cannot be had are remembered with the reason."""

    def __init__(self, systems: Sequence[str], work: Path, threads: int, **options: Any) -> None:
        self._stack = ExitStack()
        self.missing: dict[str, str] = {}
        self.running: dict[str, Worker] = {}
        for system in systems:
            self.start(system, system, work, threads, **options)

    def start(self, name: str, system: str, work: Path, threads: int, **options: Any) -> None:
        """Start one more worker, to be known as `name`: a system may run twice, with other
        options."""
        say(f"starting {name}")
        try:
            worker = Worker(system, work, threads, log=name, **options)
        except WorkerFailed as error:
            self.missing[name] = str(error)
            say(f"{name}: {error}")
        else:
            self.running[name] = self._stack.enter_context(worker)

    def drop(self, name: str, reason: str) -> None:
        """End a worker; from now on it is missing for this reason."""
        self.running.pop(name).close()
        self.missing[name] = reason
        say(f"{name}: {reason}")

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def missing_of(self, work: "Work") -> dict[str, str]:
        """Why who takes part in `work` cannot, by the name in the table."""
        return {
            name: self.missing[system]
            for name, (system, _) in work.turns.items()
            if system in self.missing
        }

    def settings(self) -> dict[str, Any]:
        """Of each system, as it says itself."""
        return {name: worker.settings for name, worker in self.running.items()}


def compare(workers: Workers, works: Sequence[Work], rounds: int) -> list[Outcome]:
    """Let all systems do all works, `rounds` times after a warm-up."""
    outcomes = {
        row: Outcome(row, unit, failed=workers.missing_of(work))
        for work in works
        for row, unit in work.rows.items()
    }
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warm-up")
        for work in works:
            names = list(work.turns)
            first = number % len(names)  # nobody is always the first
            for name in names[first:] + names[:first]:
                _take_turn(work, name, workers, number, [outcomes[row] for row in work.rows])
    return list(outcomes.values())


def _take_turn(
    work: Work, name: str, workers: Workers, number: int, rows: Sequence[Outcome]
) -> None:
    if any(name in row.failed for row in rows):
        return
    system, turn = work.turns[name]
    try:
        rates = turn(workers.running[system], number)
    except WorkerFailed as error:
        say(f"{name}: {error}")
        for row in rows:
            row.fail(name, str(error))
        return
    if number > 0:
        for row in rows:
            row.rates.setdefault(name, []).append(rates[row.work])


def table(outcomes: Sequence[Outcome], ours: str) -> str:
    """For people to read: rates, and how many times faster `ours` is than each."""
    lines = []
    for outcome in outcomes:
        lines.append(f"{outcome.work} ({outcome.unit})")
        for name in sorted(outcome.rates, key=outcome.median, reverse=True):
            rates = outcome.rates[name]
            line = f"  {name:<32} {outcome.median(name):>10.1f}"
            line += f"  [{min(rates):.1f} to {max(rates):.1f}, n={len(rates)}]"
            if ours in outcome.rates and name != ours:
                line += f"  {ours} × {outcome.ratio(ours, name):.2f}"
            lines.append(line)
        lines += [f"  {name:<32} {reason}" for name, reason in outcome.failed.items()]
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)
