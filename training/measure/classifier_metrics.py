"""How good a classifier is, with the uncertainty of each number.

Proportions have Wilson intervals. F1, ROC-AUC and the calibration error have percentile bootstrap
intervals from a fixed seed. All intervals are at 95%. The values are scikit-learn's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest, rankdata
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from model.classifier import Labels

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

_RESAMPLES = 1000
_SEED = 0
_TEMPERATURES = (0.25, 10.0)
_SPREAD = 0.5  # of the logarithm of a temperature: most lie between a half and twice
CALIBRATION_BINS = 15


def classification_metrics(
    labels: Labels, truth: Ints, probabilities: Floats, decided: Ints | None = None
) -> dict[str, Any]:
    """Accuracy, precision, recall, F1, ROC-AUC and calibration error with n and interval, and the
    confusion counts.

    With a positive label the figures are about that label; otherwise they are means over the
    labels. The calibration error is that of `calibration_error`.

    Args:
        truth: (n,), indices of the labels.
        probabilities: (n, labels)
        decided: (n,), indices of the labels; by default what `labels` decides.
    """
    if decided is None:
        names = labels.names
        decided = np.array([names.index(labels.decide(list(row))) for row in probabilities])
    result = decision_metrics(labels, truth, decided, probabilities)
    confusion = result.pop("confusion")
    return {
        **result,
        "calibration_error": calibration_error(truth, probabilities),
        "confusion": confusion,
    }


def decision_metrics(labels: Labels, truth: Ints, decided: Ints, scores: Floats) -> dict[str, Any]:
    """All of `classification_metrics` that takes no probabilities.

    Args:
        truth, decided: (n,), indices of the labels.
        scores: (n, labels); only their order in each column counts.
    """
    names = labels.names
    counts = confusion_matrix(truth, decided, labels=range(len(names)))
    positive = None if labels.positive is None else names.index(labels.positive)
    chosen = list(range(len(names))) if positive is None else [positive]
    precision, recall, f1, _ = (
        float(np.mean(values))
        for values in precision_recall_fscore_support(
            truth, decided, labels=chosen, average=None, zero_division=0
        )
    )
    n = len(truth)
    result: dict[str, Any] = {
        "n": n,
        "accuracy": proportion(int(counts.trace()), n),
        "precision": _measure(precision, n, _resampled(counts, chosen, 0)),
        "recall": _measure(recall, n, _resampled(counts, chosen, 1)),
        "f1": _measure(f1, n, _resampled(counts, chosen, 2)),
        "roc_auc": _roc_auc(truth, scores, chosen),
        "confusion": {"labels": list(names), "counts": counts.tolist()},
    }
    assert result["accuracy"]["value"] == accuracy_score(truth, decided)
    if positive is not None:
        hits = int(counts[positive, positive])
        result["precision"] = proportion(hits, int(counts[:, positive].sum()))
        result["recall"] = proportion(hits, int(counts[positive].sum()))
    return result


def proportion(successes: int, n: int) -> dict[str, Any]:
    """A share with its Wilson interval; of nothing, 0 in [0, 1]."""
    if not n:
        return {"value": 0.0, "n": 0, "interval": [0.0, 1.0]}
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return {"value": successes / n, "n": n, "interval": [float(interval.low), float(interval.high)]}


def _measure(value: float, n: int, resampled: Floats) -> dict[str, Any]:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": value, "n": n, "interval": [float(low), float(high)]}


def _resampled(counts: Ints, chosen: Sequence[int], kind: int) -> Floats:
    """Precision, recall or F1 (`kind` 0, 1, 2), mean over the `chosen` labels, of resampled rows.

    Drawing n rows with replacement is drawing the cells of the confusion matrix.
    """
    n = counts.sum()
    draws = np.random.default_rng(_SEED).multinomial(n, counts.ravel() / n, _RESAMPLES)
    cells = draws.reshape(-1, *counts.shape)  # (resample, truth, decision)
    hits = cells.diagonal(axis1=1, axis2=2)
    truths, decisions = cells.sum(axis=2), cells.sum(axis=1)
    above, below = ((hits, decisions), (hits, truths), (2 * hits, truths + decisions))[kind]
    values: Floats = (above / np.maximum(below, 1))[:, chosen].mean(axis=1)
    return values


def _roc_auc(truth: Ints, scores: Floats, chosen: Sequence[int]) -> dict[str, Any]:
    """Area under the ROC curve, each label against the rest, mean over the `chosen` labels."""
    value = float(np.mean([roc_auc_score(truth == c, scores[:, c]) for c in chosen]))
    rng = np.random.default_rng(_SEED)
    members = [np.flatnonzero(truth == c) for c in np.unique(truth)]
    resampled = []
    for _ in range(_RESAMPLES):
        # Within each label, so that every resample has them all.
        rows = np.concatenate([rng.choice(m, len(m)) for m in members])
        resampled.append(np.mean([_auc(truth[rows] == c, scores[rows, c]) for c in chosen]))
    return _measure(value, len(truth), np.array(resampled))


def _auc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The share of pairs, one positive and one not, in which the positive has the higher score."""
    count = int(positive.sum())
    wins = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(wins / (count * (len(scores) - count)))


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

    rng = np.random.default_rng(_SEED)
    n = len(truth)
    resampled = [error(rng.integers(0, n, n)) for _ in range(_RESAMPLES)]
    return {
        **_measure(error(slice(None)), n, np.array(resampled)),
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
