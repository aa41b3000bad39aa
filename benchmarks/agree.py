"""Whether two systems compute the same network: without that, a comparison of times is void.

The reference is `transformers` in fp32. For a few random prompts, the log-probabilities of the
reference's ten most probable tokens must lie close to the system's, and what the system would
choose must be about as probable as the reference's choice. Close is a share of how far these ten
stand out from the 5000th. Eight-bit weights move them by a hundredth of that; another network by
about all of it.
"""

import random
from dataclasses import dataclass
from typing import Any

from benchmarks.rounds import Workers, say
from benchmarks.systems.base import Tokens
from benchmarks.worker import Worker, WorkerFailed

REFERENCE = "transformers-fp32"
LENGTHS = (5, 16, 33, 64, 100, 200)
_GREEDY = 8
_TOP, _DEPTH = 10, 5000
MOST = 0.1
"""Bound of `mean` and of `regret`."""


@dataclass(frozen=True)
class Agreement:
    """How far a system is from the reference."""

    mean: float
    """Difference of log-probabilities over the reference's ten best, as a share of how far these
    stand out."""
    regret: float
    """Most that a chosen token is less probable to the reference than the best; the same share."""
    first: int
    """Prompts of `len(LENGTHS)` after which both choose the same token."""
    greedy: float
    """Tokens that agree before the first that differs, of 8; the mean."""

    @property
    def ok(self) -> bool:
        return self.mean <= MOST and self.regret <= MOST


def prompts(seed: int = 7, vocab: int = 50257) -> list[Tokens]:
    generator = random.Random(seed)
    return [[generator.randrange(vocab - 1) for _ in range(length)] for length in LENGTHS]


def agree(workers: Workers) -> dict[str, Any]:
    """Compare all systems with the reference.

    Raises:
        SystemExit: one computes something else.
    """
    if REFERENCE not in workers.running:
        say(f"no check: {REFERENCE} is missing")
        return {}
    reference = workers.running[REFERENCE]
    found: dict[str, Any] = {}
    for name, worker in workers.running.items():
        if name == REFERENCE:
            continue
        try:
            result = compare(reference, worker)
        except WorkerFailed as error:
            found[name] = {"error": str(error)}
            say(f"{name}: not checked: {error}")
            continue
        found[name] = {**vars(result), "ok": result.ok}
        say(
            f"{name}: log-probabilities differ by {result.mean:.2%} in the mean, the choice lacks "
            f"{result.regret:.2%} at most; {result.first} of {len(LENGTHS)} first tokens and "
            f"{result.greedy:.1f} of {_GREEDY} greedy ones are the same"
        )
        if not result.ok:
            raise SystemExit(f"{name} does not compute what {REFERENCE} does: nothing to compare")
    return found


def compare(reference: Worker, other: Worker) -> Agreement:
    """Both on the same prompts.

    Raises:
        WorkerFailed: one of them cannot tell.
    """
    differences, regrets, agreeing, first = [], [], [], 0
    for prompt in prompts():
        wanted = reference.call("top", prompt=prompt, k=_DEPTH).value
        got = other.call("top", prompt=prompt, k=_DEPTH).value
        last = wanted[-1][1]
        spread = sum(logprob for _, logprob in wanted[:_TOP]) / _TOP - last
        differences += [value / spread for value in _differences(wanted, got)]
        regrets.append((wanted[0][1] - dict(wanted).get(got[0][0], last)) / spread)
        first += wanted[0][0] == got[0][0]
        a, b = (w.call("greedy", prompt=prompt, new=_GREEDY).value for w in (reference, other))
        agreeing.append(next((i for i in range(_GREEDY) if a[i] != b[i]), _GREEDY))
    mean = sum(differences) / len(differences)
    return Agreement(mean, max(regrets), first, sum(agreeing) / len(agreeing))


def _differences(wanted: list[tuple[int, float]], got: list[tuple[int, float]]) -> list[float]:
    """Of the ten best; one that is not among the other's 5000 is taken to be their last."""
    values = dict(got)
    return [abs(logprob - values.get(token, got[-1][1])) for token, logprob in wanted[:_TOP]]
