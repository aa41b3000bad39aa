"""A baseline beside a fine-tuned classifier, and how sure their difference is.

The baseline is what one would try first: n-grams of words and of characters, weighted by TF-IDF,
under a linear support vector machine. Its only setting, C, is chosen on the validation part, and it
is then fitted to training and validation part together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

from model.classifier import Labels
from training.data.labelled import Example
from training.measure.intervals import Floats, Ints

BASELINE = (
    "TF-IDF of word 1- and 2-grams and of character 2- to 5-grams within words, LinearSVC, "
    "C chosen on the validation part, then fitted to training and validation part"
)
_C = (1.0, 0.3, 3.0, 10.0)  # the first among equals
_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Decisions:
    """What a classifier says of some texts."""

    decided: Ints
    """(n,), indices of the labels."""
    scores: Floats
    """(n, labels); probabilities, or margins."""


def ngram_baseline(
    train: Sequence[Example], val: Sequence[Example], test: Sequence[Example], labels: Labels
) -> Decisions:
    """What the baseline says of `test`."""

    def fitted(c: float, examples: Sequence[Example]) -> Any:
        machine = make_pipeline(
            make_union(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
            ),
            LinearSVC(C=c, random_state=_SEED),
        )
        targets = [labels.names.index(example.label) for example in examples]
        return machine.fit([example.text for example in examples], targets)

    texts, truth = [e.text for e in val], [labels.names.index(e.label) for e in val]
    best = max(_C, key=lambda c: f1(labels, np.array(truth), fitted(c, train).predict(texts)))
    machine = fitted(best, [*train, *val])
    texts = [example.text for example in test]
    margins = machine.decision_function(texts)
    scores = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins
    return Decisions(machine.predict(texts), scores)


def f1(labels: Labels, truth: Ints, decided: Ints) -> float:
    """Of the positive label, or the mean over the labels."""
    chosen = None if labels.positive is None else [labels.names.index(labels.positive)]
    return float(f1_score(truth, decided, labels=chosen, average="macro", zero_division=0))


def paired_difference(labels: Labels, truth: Ints, one: Ints, other: Ints) -> dict[str, Any]:
    """By how much `one` is better than `other` on the same texts, in accuracy and F1.

    The intervals are percentiles at 95% of a bootstrap over texts, from a fixed seed: each resample
    takes a text with both decisions, so what is hard for both does not widen them.

    Args:
        truth, one, other: (n,), indices of the labels.
    """
    # Drawing n texts with replacement is drawing how often each combination comes.
    cases, counts = np.unique(np.stack([truth, one, other]), axis=1, return_counts=True)
    n = len(truth)
    draws = np.random.default_rng(_SEED).multinomial(n, counts / n, _RESAMPLES)
    chosen = list(range(len(labels.names)))
    if labels.positive is not None:
        chosen = [labels.names.index(labels.positive)]

    def differences(weights: Ints) -> tuple[Floats, Floats]:
        """(resamples, cases) -> accuracy and F1 of `one` less those of `other`, (resamples,)"""
        right = (cases[1] == cases[0]).astype(int) - (cases[2] == cases[0])
        return weights @ right / n, _f1(cases[1], weights) - _f1(cases[2], weights)

    def _f1(decided: Ints, weights: Ints) -> Floats:
        values = []
        for label in chosen:
            hits = weights @ ((decided == label) & (cases[0] == label))
            total = weights @ ((decided == label).astype(int) + (cases[0] == label))
            values.append(2 * hits / np.maximum(total, 1))
        result: Floats = np.mean(values, axis=0)
        return result

    values = (float(v[0]) for v in differences(counts[None]))
    result: dict[str, Any] = {}
    for name, value, resampled in zip(("accuracy", "f1"), values, differences(draws), strict=True):
        low, high = np.percentile(resampled, [2.5, 97.5])
        result[name] = {"value": value, "n": n, "interval": [float(low), float(high)]}
    return result
