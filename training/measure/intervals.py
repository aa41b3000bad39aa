"""Numbers with their uncertainty: Wilson intervals of shares, bootstrap intervals of the rest.

All intervals are at 95%.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

RESAMPLES, SEED = 1000, 0
"""Of every bootstrap."""

Floats = npt.NDArray[np.floating]

Ints = npt.NDArray[np.integer]


def proportion(successes: int, n: int) -> dict[str, Any]:
    """A share with its Wilson interval; of nothing, 0 in [0, 1]."""
    if not n:
        return {"value": 0.0, "n": 0, "interval": [0.0, 1.0]}
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return {"value": successes / n, "n": n, "interval": [float(interval.low), float(interval.high)]}


def measured(value: float, n: int, resampled: Floats) -> dict[str, Any]:
    """A value with its percentile interval.

    Args:
        resampled: the values of resamples of the same rows.
    """
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": value, "n": n, "interval": [float(low), float(high)]}


def bootstrap_mean(values: Sequence[float]) -> dict[str, Any]:
    """The mean of the values, with a percentile bootstrap interval."""
    drawn = np.random.default_rng(SEED).choice(values, (RESAMPLES, len(values)))
    return measured(float(np.mean(values)), len(values), drawn.mean(axis=1))
