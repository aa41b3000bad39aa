"""Curves of classifiers: their areas and bins are those of the metrics."""

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from model.classifier import Labels
from training.measure.classifier_metrics import classifier_curves

BINARY = Labels(("ham", "spam"), positive="spam", threshold=0.3)


def scores(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Truths that come true as often as the probabilities say."""
    rng = np.random.default_rng(0)
    positive = rng.random(n)
    return (rng.random(n) < positive).astype(int), np.stack([1 - positive, positive], axis=1)


def test_the_roc_curve_has_the_area_of_the_metric() -> None:
    truth, probabilities = scores(5000)
    found = classifier_curves(BINARY, truth, probabilities)
    (points,) = found["roc"].values()
    assert len(points) <= 200
    assert (points[0], points[-1]) == ([0, 0], [1, 1])
    assert auc(*zip(*points, strict=True)) == pytest.approx(
        roc_auc_score(truth, probabilities[:, 1]), abs=1e-3
    )
    (points,) = found["precision_recall"].values()
    assert (points[0][0], points[-1]) == (1, [0, 1])  # recall, precision


def test_reliability_of_the_positive_label() -> None:
    truth, probabilities = scores(5000)
    found = classifier_curves(BINARY, truth, probabilities)
    assert found["reliability_of"] == "spam"
    assert sum(row["n"] for row in found["reliability"]) == 5000
    assert len(found["reliability"]) == 10
    for row in found["reliability"]:
        low, high = row["interval"]
        assert low < row["accuracy"] < high
        assert row["accuracy"] == pytest.approx(row["confidence"], abs=0.08)


def test_more_labels_are_each_against_the_rest() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 60)  # the third label does not occur
    probabilities = rng.dirichlet([1, 1, 1], 60)
    probabilities[0] = [1, 0, 0]  # falls into the last bin
    found = classifier_curves(Labels(("a", "b", "c")), truth, probabilities)
    assert list(found["roc"]) == list(found["precision_recall"]) == ["a", "b"]
    assert found["reliability_of"] == "the most probable label"
    assert found["reliability"][-1]["n"] == (probabilities.max(axis=1) >= 0.9).sum() > 1
    rights = (probabilities.argmax(axis=1) == truth).sum()
    assert sum(row["n"] * row["accuracy"] for row in found["reliability"]) == pytest.approx(rights)
