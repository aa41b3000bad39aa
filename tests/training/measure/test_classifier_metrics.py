"""Metrics of classifiers against scikit-learn, and intervals against known values."""

import numpy as np
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from model.classifier import Labels
from training.measure.calibration import (
    best_threshold,
    calibrated,
    calibration_error,
    fit_temperature,
)
from training.measure.classifier_metrics import _auc, classification_metrics
from training.measure.classifiers import balanced_rows
from training.measure.intervals import proportion

LABELS = Labels(("ham", "spam"), positive="spam", threshold=0.3)


def scores(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.2).astype(int)
    positive = np.clip(0.25 + 0.3 * truth + 0.2 * rng.standard_normal(n), 0.01, 0.99)
    return truth, np.stack([1 - positive, positive], axis=1)


def test_binary_values_are_those_of_scikit_learn() -> None:
    truth, probabilities = scores()
    decided = (probabilities[:, 1] >= 0.3).astype(int)
    found = classification_metrics(LABELS, truth, probabilities)
    assert found["n"] == 400
    assert found["accuracy"]["value"] == (decided == truth).mean()
    for name, function in (
        ("precision", precision_score),
        ("recall", recall_score),
        ("f1", f1_score),
        ("balanced_accuracy", balanced_accuracy_score),
    ):
        assert found[name]["value"] == pytest.approx(function(truth, decided))
    assert found["roc_auc"]["value"] == roc_auc_score(truth, probabilities[:, 1])
    assert found["precision"]["n"] == decided.sum()
    assert found["recall"]["n"] == truth.sum()
    assert np.sum(found["confusion"]["counts"]) == 400
    for name in ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc"):
        low, high = found[name]["interval"]
        assert low < found[name]["value"] < high
    assert found == classification_metrics(LABELS, truth, probabilities)


def test_more_labels_are_averaged() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 300)
    logits = rng.standard_normal((300, 3)) + 1.5 * np.eye(3)[truth]
    probabilities = calibrated(logits, 1.0)
    found = classification_metrics(Labels(("a", "b", "c")), truth, probabilities)
    decided = logits.argmax(axis=1)
    assert found["f1"]["value"] == pytest.approx(f1_score(truth, decided, average="macro"))
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(truth, decided)
    )
    assert found["roc_auc"]["value"] == pytest.approx(
        roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    )


def test_the_calibration_error_is_the_gap_of_the_bins() -> None:
    # 15 bins: 0.95 is in the 15th, 0.6 in the 10th, 0.7 in the 11th.
    confidence = np.array([0.95] * 10 + [0.6] * 5 + [0.7] * 5)
    right = np.array([True] * 10 + [True, True, False, False, False] + [True] * 5)
    truth = np.where(right, 1, 0)
    found = calibration_error(truth, np.stack([1 - confidence, confidence], axis=1))
    assert found["value"] == pytest.approx((10 * 0.05 + 5 * 0.2 + 5 * 0.3) / 20)
    assert found["n"] == 20
    low, high = found["interval"]
    assert low < found["value"] < high


def test_the_calibration_error_of_true_probabilities_is_small() -> None:
    rng = np.random.default_rng(3)
    probabilities = calibrated(2 * rng.standard_normal((20000, 3)), 1.0)
    truth = (rng.random((20000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    assert calibration_error(truth, probabilities)["value"] < 0.01
    overconfident = calibrated(np.log(probabilities), 0.5)
    assert calibration_error(truth, overconfident)["value"] > 0.1


def test_decisions_may_be_made_elsewhere() -> None:
    truth, probabilities = scores()
    decided = (probabilities[:, 1] >= 0.6).astype(int)
    found = classification_metrics(LABELS, truth, probabilities, decided)
    assert found["accuracy"]["value"] == (decided == truth).mean()
    assert found["f1"]["value"] == pytest.approx(f1_score(truth, decided))


def test_the_bootstrapped_area_is_the_real_one() -> None:
    truth, probabilities = scores()
    rounded = probabilities[:, 1].round(1)  # with many ties
    assert _auc(truth == 1, rounded) == pytest.approx(roc_auc_score(truth, rounded))


def test_wilson_interval() -> None:
    # Newcombe (1998), table I: 81 of 263.
    assert proportion(81, 263)["interval"] == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert proportion(0, 0) == {"value": 0.0, "n": 0, "interval": [0.0, 1.0]}


def test_nothing_decided_positive() -> None:
    truth, probabilities = scores()
    labels = Labels(("ham", "spam"), positive="spam", threshold=0.995)
    found = classification_metrics(labels, truth, probabilities)
    assert found["precision"] == {"value": 0.0, "n": 0, "interval": [0.0, 1.0]}
    assert found["f1"]["value"] == 0.0


def test_threshold_is_near_the_best_f1_where_there_are_texts_enough_to_tell() -> None:
    truth, probabilities = scores(20000)
    positive = np.clip(probabilities[:, 1] + 0.3, 0, 1)  # so that 0.5 is far from the best
    found = best_threshold(truth == 1, positive)
    best = max(f1_score(truth, positive >= t) for t in np.linspace(0.02, 0.98, 97))
    assert found > 0.6
    assert f1_score(truth, positive >= found) == pytest.approx(best, abs=0.02)
    assert best > f1_score(truth, positive >= 0.5) + 0.1


def test_threshold_does_not_leave_the_middle_by_chance() -> None:
    # The highest F1 is above 0.9, for the sake of three texts.
    positive = np.array([False] * 50 + [False] * 3 + [True] * 10)
    found = np.array([0.1] * 50 + [0.6, 0.7, 0.9] + [0.95] * 10)
    assert best_threshold(positive, found) == 0.5
    # Ten such texts are none.
    many = np.array([False] * 50 + [False] * 10 + [True] * 10)
    found = np.array([0.1] * 50 + list(np.linspace(0.6, 0.9, 10)) + [0.95] * 10)
    assert best_threshold(many, found) > 0.6


def test_threshold_stays_near_the_middle_when_that_is_as_good() -> None:
    assert best_threshold(np.array([False, True]), np.array([0.01, 0.99])) == 0.5
    assert 0 < best_threshold(np.array([False, True]), np.array([1.0, 1.0])) < 1


def test_temperature_is_found_again() -> None:
    rng = np.random.default_rng(2)
    logits = 2 * rng.standard_normal((20000, 3))
    truth = np.array([rng.choice(3, p=row) for row in calibrated(logits, 1.0)])
    assert fit_temperature(3 * logits, truth) == pytest.approx(3.0, rel=0.1)


def test_a_few_texts_without_an_error_do_not_make_a_classifier_certain() -> None:
    logits = np.array([[2.0, -2.0], [-2.0, 2.0]] * 3)
    truth = np.array([0, 1] * 3)
    assert 0.8 < fit_temperature(logits, truth) < 1
    # Hundreds without an error do say that it is too modest.
    assert fit_temperature(np.tile(logits, (200, 1)), np.tile(truth, 200)) < 0.6


def test_balanced_rows_are_as_many_of_each() -> None:
    targets = np.array([0, 0, 1, 0, 0, 1, 0])
    assert balanced_rows(targets).tolist() == [0, 1, 2, 5]
