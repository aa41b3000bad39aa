"""Probabilities that mean what they say: temperature, threshold, and how far off they are."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from training.measure.intervals import RESAMPLES, SEED, Floats, Ints, measured

_TEMPERATURES = (0.25, 10.0)

_SPREAD = 0.5  # of the logarithm of a temperature: most lie between a half and twice

CALIBRATION_BINS = 15


def calibration_error(truth: Ints, probabilities: Floats) -> dict[str, Any]:
    """The expected calibration error: how far the confidence of the most probable label is from the
    share of texts that have it, in `CALIBRATION_BINS` bins of equal width, weighted by the texts in
    each (Guo et al., "On Calibration of Modern Neural Networks", 2017, section 2).

    The estimate is never negative, so that of a perfectly calibrated classifier is above 0, and a
    resample's is a little above it on average: the interval errs to the high side.
    """
    confidence = probabilities.max(axis=1)
    gaps = (probabilities.argmax(axis=1) == truth) - confidence  # (n,)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)

    def error(rows: Ints | slice) -> float:
        sums = np.bincount(bins[rows], weights=gaps[rows], minlength=CALIBRATION_BINS)
        return float(np.abs(sums).sum() / len(truth))

    rng = np.random.default_rng(SEED)
    n = len(truth)
    resampled = [error(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    return {
        **measured(error(slice(None)), n, np.array(resampled)),
        "binning": f"{CALIBRATION_BINS} bins of equal width over the highest probability",
    }


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """The temperature by which the logits explain the truth best, given that 1 is the likeliest.

    A part of few texts may be told apart without an error, and then the sharper the better, without
    end. The logarithm of the temperature therefore has a normal prior, of the standard deviation
    `_SPREAD`: it is felt with dozens of texts, and not with hundreds that hold errors.

    Args:
        logits: (n, labels)
        truth: (n,)
    """

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        likelihood = float(log_probabilities[np.arange(len(truth)), truth].sum())
        return (log_temperature / _SPREAD) ** 2 / 2 - likelihood

    bounds = tuple(np.log(_TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def calibrated(logits: Floats, temperature: float) -> Floats:
    """(n, labels) -> (n, labels); the same as `ClassifierHead.probabilities`"""
    result: Floats = softmax(logits / temperature, axis=1)
    return result


def best_threshold(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The threshold nearest to 0.5 that is not clearly worse than the one with the highest F1.

    Where probabilities are calibrated, F1 is highest at a threshold of half that F1 (Lipton et al.,
    "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014), so a little below 0.5. The
    highest F1 of a few dozen positives is elsewhere by chance, and costs accuracy on other texts.
    So the validation part has to speak against 0.5: of the texts on which two thresholds decide
    differently, the better one must be right more often than a fair coin would be at 95%.

    Args:
        positive: (n,), which rows have the positive label.
        scores: (n,), its probability.
    """
    if not positive.any():
        return 0.5
    distinct = np.unique(scores)
    middles = (distinct[1:] + distinct[:-1]) / 2
    candidates = np.concatenate([middles, [0.5]])
    candidates = candidates[(candidates > 0) & (candidates < 1)]
    order = np.argsort(scores)
    hits_below = np.concatenate([[0], np.cumsum(positive[order])])
    below = np.searchsorted(scores[order], candidates, side="left")
    hits = positive.sum() - hits_below[below]
    f1 = 2 * hits / (positive.sum() + len(scores) - below)
    right = hits + below - hits_below[below]
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    best = best[np.argmin(np.abs(candidates[best] - 0.5))]
    decided_otherwise = np.abs(below - below[best])
    allowed = right[best] - right <= 1.96 * np.sqrt(decided_otherwise)
    return float(candidates[allowed][np.argmin(np.abs(candidates[allowed] - 0.5))])
