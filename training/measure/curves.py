"""What a classifier's probabilities look like over all thresholds: points to plot.

ROC and precision-recall curves are those of scikit-learn, for the positive label, or for each label
against the rest. The reliability diagram asks of each probability how often it came true.
"""

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from model.classifier import Labels
from training.measure.intervals import Floats, Ints, proportion

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
