"""Drawing from one row of logits in a few passes over it, without sorting the vocabulary.

A sort of 50,257 numbers takes longer than all else that happens to a row. The k largest, or the
smallest set with a given probability, are found by bounds that leave few candidates.

Rows are numpy arrays in the machine's memory, one at a time: numpy adds up an array in one thread
and always in the same order, so the low bits, and with them the token, depend on the row alone.
torch shares a long row among its threads when it comes alone, but not in a batch.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.intp]

_BLOCK = 256
"""Weights are added up in blocks of this size: a point is found without a running sum of all."""

_STRIDE = 64
"""Logits in a group, of which only the largest counts while the k largest are sought."""

_BINS = 1024
"""Into which logits are put, where they are too many to be sorted."""


class _Candidates(NamedTuple):
    """What may still be drawn."""

    tokens: Integers | None
    """Their ids, rising; None is the whole vocabulary."""
    logits: Floats
    weights: Floats
    """In proportion to their probabilities; the largest is 1."""

    def only(self, stays: NDArray[np.bool_]) -> "_Candidates":
        """Those that stay, and others without weight where taking them out would cost more."""
        if 2 * np.count_nonzero(stays) > len(stays):
            return self._replace(weights=self.weights * stays)
        places = np.flatnonzero(stays)
        tokens = places if self.tokens is None else self.tokens[places]
        return _Candidates(tokens, self.logits[places], self.weights[places])


def draw(
    logits: Floats,
    uniform: float,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float,
    min_p: float,
) -> int | None:
    """The token at `uniform` of the distribution function over the token ids.

    Args:
        logits: (vocab,), contiguous; -inf is never drawn.
        uniform: in [0, 1)
        temperature, top_k, top_p, min_p: as in `SamplingSettings`.

    Returns:
        a token id; None if a logit is not a number or +inf, or all are -inf
    """
    best = int(logits.argmax())  # the first that is not a number, if there is one
    largest = logits[best]
    if not math.isfinite(largest):
        return None
    if temperature == 0:
        return best
    tokens = None
    if top_k is not None and top_k < len(logits):
        tokens = _largest(logits, top_k)
        logits = logits[tokens]
    kept = _Candidates(tokens, logits, _weights(logits, largest, temperature))
    if top_p < 1:
        kept = _nucleus(kept, top_p)
    if min_p:
        kept = kept.only(kept.weights >= min_p)
    place = _place(kept.weights, uniform)
    return place if kept.tokens is None else int(kept.tokens[place])


def ranked(logits: Floats, k: int) -> Integers:
    """The ids of the `k` largest, the largest first, of equal ones the lower id.

    Args:
        logits: (vocab,), without not-a-number.

    Returns:
        (min(k, vocab),)
    """
    tokens = _largest(logits, min(k, len(logits)))
    return tokens[np.argsort(-logits[tokens], kind="stable")]


def log_normaliser(logits: Floats) -> float:
    """By how much the logits of a row exceed their log-probabilities.

    Args:
        logits: (vocab,)
    """
    largest = logits.max()
    return float(largest) + math.log(np.exp(logits - largest).sum(dtype=np.float64))


def _weights(logits: Floats, largest: np.float32, temperature: float) -> Floats:
    """exp of the logits over the temperature, as shares of what the largest has."""
    # The difference first: a large quotient is not finite. The bound is what fp32 can divide by.
    with np.errstate(over="ignore"):  # -inf is right
        scaled = np.subtract(logits, largest)
        np.divide(scaled, np.float32(max(temperature, 1e-20)), out=scaled)
    return np.exp(scaled, out=scaled)


def _largest(logits: Floats, k: int) -> Integers:
    """The ids of the `k` largest, rising; of equal ones the lower ids. `k` is 0 to vocab."""
    if k == 0:
        return np.empty(0, np.intp)
    groups = len(logits) // _STRIDE
    if k < groups:
        # k groups have a member this large, so at least k tokens are, and rarely many more.
        members = logits[: groups * _STRIDE].reshape(_STRIDE, groups).max(axis=0)
        tokens = np.flatnonzero(logits >= _kth(members, k))
    else:
        tokens = np.arange(len(logits))
    values = logits[tokens]
    least = _kth(values, k)
    tokens, values = tokens[values >= least], values[values >= least]
    surplus = np.flatnonzero(values == least)[::-1][: len(tokens) - k]
    return np.delete(tokens, surplus) if len(surplus) else tokens


def _kth(values: Floats, k: int) -> np.float32:
    """The k-th largest."""
    at = len(values) - k
    least: np.float32 = np.partition(values, at)[at]
    return least


def _nucleus(kept: _Candidates, top_p: float) -> _Candidates:
    """The smallest set of most probable tokens that has `top_p` of the whole.

    The token that crosses the line stays; of equal ones, those with the lower ids.
    """
    total = float(kept.weights.sum(dtype=np.float64))
    line = top_p * total
    while True:
        # Together, those below this average are too few to reach from the line to the whole.
        above = kept.weights >= (total - line) / len(kept.weights)
        if 2 * np.count_nonzero(above) > len(above):
            break
        kept = kept.only(above)
        total = float(kept.weights.sum(dtype=np.float64))
    bins = _bins(kept.logits)
    masses = np.bincount(bins, weights=kept.weights, minlength=_BINS).cumsum()
    border = int(masses.searchsorted(min(line, masses[-1])))
    # Only the bin in which the line is crossed needs its order.
    inside = np.flatnonzero(bins == border)
    inside = inside[np.argsort(-kept.logits[inside], kind="stable")]
    before = masses[border - 1] if border else 0.0
    reached = before + kept.weights[inside].cumsum(dtype=np.float64)
    stays = bins <= border
    stays[inside[int(reached.searchsorted(line)) + 1 :]] = False
    return kept.only(stays)


def _bins(logits: Floats) -> Integers:
    """Which of the bins each logit is in, by its distance from the largest."""
    largest = logits.max()
    # What is further below goes to the last bin; it matters at high temperatures only.
    span = min(max(float(largest) - float(logits.min()), 1e-6), 200.0)
    scaled = np.maximum(logits, largest - np.float32(span))
    np.subtract(largest, scaled, out=scaled)
    np.multiply(scaled, np.float32((_BINS - 1) / span), out=scaled)
    bins: Integers = scaled.astype(np.int32).astype(np.intp)  # faster than in one step
    return bins


def _place(weights: Floats, uniform: float) -> int:
    """The first place up to which the weights are more than `uniform` of the whole."""
    starts = np.arange(0, len(weights), _BLOCK)
    masses = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()
    point = uniform * masses[-1]
    block = _first_above(masses, point)
    if block:
        point -= masses[block - 1]
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    return block * _BLOCK + _first_above(inside, point)


def _first_above(masses: NDArray[np.float64], point: float) -> int:
    """Where `masses`, which rise, exceed `point`; rounding may have put it at their end."""
    return int(masses.searchsorted(min(point, np.nextafter(masses[-1], 0.0)), side="right"))
