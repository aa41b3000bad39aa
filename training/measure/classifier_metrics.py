"""How good a classifier is, with the uncertainty of each number.

Proportions have Wilson intervals. F1, ROC-AUC and the calibration error have percentile bootstrap
intervals from a fixed seed. All intervals are at 95%. The values are scikit-learn's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from model.classifier import Labels
from training.measure.calibration import calibration_error
from training.measure.intervals import RESAMPLES, SEED, Floats, Ints, measured, proportion


def classification_metrics(
    labels: Labels, truth: Ints, probabilities: Floats, decided: Ints | None = None
) -> dict[str, Any]:
    """Accuracy, balanced accuracy (the mean of each label's recall), precision, recall, F1, ROC-AUC
    and calibration error with n and interval, and the confusion counts.

    With a positive label the figures are about that label; otherwise they are means over the
    labels that there are in `truth`; `of` says which. The calibration error is that of
    `calibration_error`.

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
    # A label that no row has can be neither found nor missed.
    present = np.unique(truth).tolist()
    chosen = present if positive is None else [positive]
    precision, recall, f1, _ = (
        float(np.mean(values))
        for values in precision_recall_fscore_support(
            truth, decided, labels=chosen, average=None, zero_division=0
        )
    )
    n = len(truth)
    result: dict[str, Any] = {
        "n": n,
        "of": f"the label {labels.positive}" if labels.positive else "the mean over the labels",
        "accuracy": proportion(int(counts.trace()), n),
        "balanced_accuracy": measured(
            float(np.mean(counts.diagonal()[present] / counts.sum(axis=1)[present])),
            *(n, _resampled(counts, present, 1)),
        ),
        "precision": measured(precision, n, _resampled(counts, chosen, 0)),
        "recall": measured(recall, n, _resampled(counts, chosen, 1)),
        "f1": measured(f1, n, _resampled(counts, chosen, 2)),
        **_roc_auc(truth, scores, chosen),
        "confusion": {"labels": list(names), "counts": counts.tolist()},
    }
    assert result["accuracy"]["value"] == accuracy_score(truth, decided)
    if positive is not None:
        hits = int(counts[positive, positive])
        result["precision"] = proportion(hits, int(counts[:, positive].sum()))
        result["recall"] = proportion(hits, int(counts[positive].sum()))
    return result


def _resampled(counts: Ints, chosen: Sequence[int], kind: int) -> Floats:
    """Precision, recall or F1 (`kind` 0, 1, 2), mean over the `chosen` labels, of resampled rows.

    Drawing n rows with replacement is drawing the cells of the confusion matrix.
    """
    n = counts.sum()
    draws = np.random.default_rng(SEED).multinomial(n, counts.ravel() / n, RESAMPLES)
    cells = draws.reshape(-1, *counts.shape)  # (resample, truth, decision)
    hits = cells.diagonal(axis1=1, axis2=2)
    truths, decisions = cells.sum(axis=2), cells.sum(axis=1)
    above, below = ((hits, decisions), (hits, truths), (2 * hits, truths + decisions))[kind]
    values: Floats = (above / np.maximum(below, 1))[:, chosen].mean(axis=1)
    return values


def _roc_auc(truth: Ints, scores: Floats, chosen: Sequence[int]) -> dict[str, Any]:
    """Area under the ROC curve, each label against the rest, mean over the `chosen` labels; nothing
    where all rows have the same label, which then is told from none."""
    if len(np.unique(truth)) < 2 or not np.isin(chosen, truth).all():
        return {}
    value = float(np.mean([roc_auc_score(truth == c, scores[:, c]) for c in chosen]))
    rng = np.random.default_rng(SEED)
    members = [np.flatnonzero(truth == c) for c in np.unique(truth)]
    resampled = []
    for _ in range(RESAMPLES):
        # Within each label, so that every resample has them all.
        rows = np.concatenate([rng.choice(m, len(m)) for m in members])
        resampled.append(np.mean([_auc(truth[rows] == c, scores[rows, c]) for c in chosen]))
    return {"roc_auc": measured(value, len(truth), np.array(resampled))}


def _auc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The share of pairs, one positive and one not, in which the positive has the higher score."""
    count = int(positive.sum())
    wins = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(wins / (count * (len(scores) - count)))


_POINTS = 200  # of a curve; more cannot be seen
_BINS = 10


def classifier_curves(labels: Labels, truth: Ints, probabilities: Floats) -> dict[str, Any]:
    """`roc` and `precision_recall` by label, and `reliability` with what it is `reliability_of`.

    Args:
        truth: (n,), indices of the labels.
        probabilities: (n, labels), calibrated.
    """
    roc, precision_recall = {}, {}
    for name in labels.names if labels.positive is None else (labels.positive,):
        index = labels.names.index(name)
        positive, scores = truth == index, probabilities[:, index]
        if positive.all() or not positive.any():
            continue  # a rate of nothing
        false_rate, true_rate, _ = roc_curve(positive, scores)
        precision, recall, _ = precision_recall_curve(positive, scores)
        roc[name] = _thinned(false_rate, true_rate)
        precision_recall[name] = _thinned(recall, precision)
    return {
        "roc": roc,
        "precision_recall": precision_recall,
        "reliability": reliability(labels, truth, probabilities),
        "reliability_of": labels.positive or "the most probable label",
    }


def reliability(labels: Labels, truth: Ints, probabilities: Floats) -> list[dict[str, Any]]:
    """Ten bins of equal width, those that are empty left out: n, mean confidence, and the share
    that came true with its Wilson interval.

    The confidence is the probability of the positive label; without one, of the most probable.
    """
    if labels.positive is not None:
        index = labels.names.index(labels.positive)
        confidence, hit = probabilities[:, index], truth == index
    else:
        decided = probabilities.argmax(axis=1)
        confidence, hit = probabilities.max(axis=1), truth == decided
    numbers = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins = []
    for number in np.unique(numbers):
        members = numbers == number
        share = proportion(int(hit[members].sum()), int(members.sum()))
        bins.append(
            {
                "n": share["n"],
                "confidence": float(confidence[members].mean()),
                "accuracy": share["value"],
                "interval": share["interval"],
            }
        )
    return bins


def _thinned(x: Floats, y: Floats) -> list[list[float]]:
    """(points, 2) as a list, at most `_POINTS` of them, both ends kept."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(_POINTS, len(x))).round().astype(int))
    return [
        [round(float(a), 6), round(float(b), 6)] for a, b in zip(x[chosen], y[chosen], strict=True)
    ]
