"""How good a classifier is, with the uncertainty of each number.

Proportions have Wilson intervals. F1 and ROC-AUC have percentile bootstrap intervals from a fixed
seed. All intervals are at 95%. The values are scikit-learn's.
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


def classification_metrics(labels: Labels, truth: Ints, probabilities: Floats) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and ROC-AUC with n and interval, and the confusion counts.

    With a positive label the decision is at its threshold and the figures are about that label;
    otherwise the most probable label is the decision and the figures are means over the labels.

    Args:
        truth: (n,), indices of the labels.
        probabilities: (n, labels)
    """
    names = labels.names
    decided = np.array([names.index(labels.decide(list(row))) for row in probabilities])
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
        "roc_auc": _roc_auc(truth, probabilities, chosen),
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


def _roc_auc(truth: Ints, probabilities: Floats, chosen: Sequence[int]) -> dict[str, Any]:
    """Area under the ROC curve, each label against the rest, mean over the `chosen` labels."""
    value = float(np.mean([roc_auc_score(truth == c, probabilities[:, c]) for c in chosen]))
    rng = np.random.default_rng(_SEED)
    members = [np.flatnonzero(truth == c) for c in np.unique(truth)]
    resampled = []
    for _ in range(_RESAMPLES):
        # Within each label, so that every resample has them all.
        rows = np.concatenate([rng.choice(m, len(m)) for m in members])
        resampled.append(np.mean([_auc(truth[rows] == c, probabilities[rows, c]) for c in chosen]))
    return _measure(value, len(truth), np.array(resampled))


def _auc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The share of pairs, one positive and one not, in which the positive has the higher score."""
    count = int(positive.sum())
    wins = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(wins / (count * (len(scores) - count)))


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """The temperature by which the logits' log-likelihood is greatest.

    It is sought from 0.25 to 10: where a validation part is told apart without an error, no bound
    would mean certainty.

    Args:
        logits: (n, labels)
        truth: (n,)
    """

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(log_probabilities[np.arange(len(truth)), truth].mean())

    bounds = tuple(np.log(_TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def calibrated(logits: Floats, temperature: float) -> Floats:
    """(n, labels) -> (n, labels); the same as `ClassifierHead.probabilities`"""
    result: Floats = softmax(logits / temperature, axis=1)
    return result


def best_threshold(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The threshold with the highest F1; among equals, the one nearest to 0.5.

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
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])
