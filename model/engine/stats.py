"""What an engine counts while it runs, cheaply enough to do so in every step.

A step takes milliseconds, so most figures are counted once a step and not once a token.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STEP_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
"""Upper ends of buckets for what takes about a step: small models make one in a millisecond."""
COUNTS = tuple(float(2**power) for power in range(14))
"""1 to 8192, for sequences and tokens."""


@dataclass(frozen=True)
class Distribution:
    """The values that a `Histogram` has seen up to one moment."""

    bounds: tuple[float, ...]
    """Upper ends of the buckets, each within its bucket, rising."""
    counts: tuple[int, ...]
    """Values in each bucket; one more than there are bounds, for what is above the last one."""
    total: float
    """Sum of the values."""

    def __add__(self, other: "Distribution") -> "Distribution":
        assert self.bounds == other.bounds, "the buckets must be the same"
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Distribution(self.bounds, counts, self.total + other.total)


class Histogram:
    """Written by one thread, read by any.

    Args:
        bounds: as of `Distribution`.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def distribution(self) -> Distribution:
        return Distribution(self._bounds, tuple(self._counts), self._total)


@dataclass(frozen=True)
class EngineStats:
    """Figures of an engine at one moment."""

    running: int
    """Sequences with a part in the step that was planned last."""
    waiting: int
    """All others, those that pause among them."""
    paused: int
    """Sequences that have begun, and have no turn."""
    steps: int
    """Steps since the start: it grows while the engine turns."""
    slots: int
    """Sequences that can be generated at once."""
    blocks: int
    """Blocks of the cache."""
    free_blocks: int
    """Those that no running sequence uses; all of them when the engine is idle."""
    cache_bytes: int
    preemptions: int
    """How often a sequence had to leave the cache for another, since the start."""
    prompt_tokens: int
    """Tokens of admitted prompts, since the start."""
    cached_tokens: int
    """How many of them were in the cache already."""
    drafted_tokens: int
    """Tokens that were computed in advance, since the start."""
    accepted_tokens: int
    """How many of them came, and spared a step."""
    forced_tokens: int
    """Tokens that a constraint left no choice about, since the start."""
    generated_tokens: int
    """Tokens that were drawn or forced, since the start."""
    step_seconds: Distribution
    """Of all steps since the start, as the following."""
    step_sequences: Distribution
    """Sequences in a step."""
    step_tokens: Distribution
    """Tokens computed in a step, of prompts and generated ones."""
    token_gaps: Distribution
    """Seconds from one token of a sequence to its next."""


class Tally:
    """What one engine has counted since its start. Written by the engine's thread alone."""

    def __init__(self) -> None:
        self.steps = 0
        self.generated_tokens = 0
        self.step_seconds = Histogram(STEP_SECONDS)
        self.step_sequences = Histogram(COUNTS)
        self.step_tokens = Histogram(COUNTS)
        self.token_gaps = Histogram(STEP_SECONDS)

    def step(self, lengths: Sequence[int], seconds: float) -> None:
        """A step has ended, well or not.

        Args:
            lengths: how many tokens of each sequence it had.
        """
        self.steps += 1
        self.step_seconds.observe(seconds)
        self.step_sequences.observe(len(lengths))
        self.step_tokens.observe(sum(lengths))

    def tokens(self, last: Iterable[float], now: float) -> None:
        """Some sequences got a token `now`, on the clock of `time.monotonic`.

        Args:
            last: when each of them got the token before; 0 where it is the first.
        """
        # Most of them got that one in the same step: there are few different gaps.
        moments = Counter(last)
        self.generated_tokens += moments.total()
        moments.pop(0.0, None)  # the time to the first token is another figure
        for moment, times in moments.items():
            self.token_gaps.observe(now - moment, times)
