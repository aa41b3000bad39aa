"""Counts of values by size, cheap enough for every step of an engine."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


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
