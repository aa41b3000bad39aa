"""What a network says of labelled texts: logits, calibration, and the metrics of a test part.

Training measures with it before it publishes, and `evaluate` measures a published checkpoint: the
same files, the same texts and the same passes give the same numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.classifier import Labels
from training.loop.task import pad_rows
from training.measure.calibration import best_threshold, calibrated, fit_temperature
from training.measure.classifier_metrics import classification_metrics
from training.measure.intervals import Floats, Ints, proportion
from training.objectives.labels import Rows, head_of
from training.tuning.network import Network

_ROWS, _TOKENS = 32, 4096
"""Of a forward pass when measuring, at most, padding included: fixed, so that a measurement can be
repeated. More would take more memory than training does."""

_FITTED = 1000


def row_logits(network: Network, inputs: Tensor, lengths: Tensor) -> Tensor:
    """Logits of padded rows, which do not depend on the padding: (rows, labels) fp32"""
    head = head_of(network)
    out: Tensor = head(head.pool(network.hidden(inputs), lengths)).float()
    return out


@torch.no_grad()
def all_logits(network: Network, rows: Rows, padding: int) -> Floats:
    """(n, labels) fp64, in passes of the same rows each time that it is called."""
    result = np.empty((len(rows.tokens), len(head_of(network).labels.names)))
    # The longest first: what shorter rows take fits into the memory that these leave.
    for chosen in reversed(_passes([len(tokens) for tokens in rows.tokens])):
        inputs, lengths = pad_rows([rows.tokens[i] for i in chosen], padding, network.device)
        result[chosen] = row_logits(network, inputs, lengths).double().cpu().numpy()
    return result


def _passes(lengths: Sequence[int]) -> list[list[int]]:
    """The rows of each pass, from the shortest to the longest."""
    passes: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        size = len(passes[-1]) + 1
        if size > 1 and (size > _ROWS or size * lengths[i] > _TOKENS):
            passes.append([])
        passes[-1].append(i)
    return [each for each in passes if each]


def rehearse(network: Network, parts: Iterable[Rows], padding: int) -> None:
    """Measure the rows alone that take the most memory."""
    pairs = [pair for rows in parts for pair in zip(rows.tokens, rows.targets, strict=True)]
    longest = sorted(pairs, key=lambda pair: len(pair[0]))[-_ROWS:]
    tokens, targets = zip(*longest, strict=True)
    all_logits(network, Rows(tokens, targets, 0), padding)


def balanced_rows(targets: Ints) -> Ints:
    """Indices of as many rows of each label as the rarest has: the first ones of each. Parts are
    in the order of their texts' hashes, so these too depend on the texts alone."""
    members = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    least = min(map(len, members))
    return np.sort(np.concatenate([rows[:least] for rows in members]))


def measure(
    network: Network, rows: Rows, padding: int, files: Sequence[str] = ()
) -> dict[str, Any]:
    """The metrics of a part, as it is and balanced.

    Args:
        files: of each row, the name of its file; where there are several, `test_by_file` has the
            metrics of the rows of each.
    """
    labels, targets = head_of(network).labels, np.array(rows.targets)
    probabilities = all_probabilities(network, rows, padding)
    metrics = part_metrics(labels, targets, probabilities)
    if len(set(files)) > 1:
        metrics["test_by_file"] = {
            name: classification_metrics(labels, targets[chosen], probabilities[chosen])
            for name in sorted(set(files))
            for chosen in [np.array(files) == name]
        }
    return metrics


def all_probabilities(network: Network, rows: Rows, padding: int) -> Floats:
    """(n, labels), calibrated"""
    temperature = head_of(network).labels.temperature
    return calibrated(all_logits(network, rows, padding), temperature)


def part_metrics(labels: Labels, targets: Ints, probabilities: Floats) -> dict[str, Any]:
    """The metrics of a part, as it is and balanced.

    Args:
        targets: (n,), indices of the labels.
        probabilities: (n, labels), calibrated.
    """
    balanced = balanced_rows(targets)
    return {
        "test_natural": classification_metrics(labels, targets, probabilities),
        "test_balanced": classification_metrics(labels, targets[balanced], probabilities[balanced]),
    }


def fitted(network: Network, train: Rows, padding: int) -> dict[str, Any]:
    """The accuracy on texts that were learnt, of which 1,000 at most are looked at: on a large base
    all of them could take as long as an epoch."""
    total = len(train.tokens)
    wanted = min(total, _FITTED)
    chosen = [index * total // wanted for index in range(wanted)]
    some = Rows(
        tuple(train.tokens[i] for i in chosen), tuple(train.targets[i] for i in chosen), truncated=0
    )
    return accuracy(network, some, padding)


def accuracy(network: Network, rows: Rows, padding: int) -> dict[str, Any]:
    """The share of texts that get their label, with n and interval."""
    labels = head_of(network).labels
    probabilities = calibrated(all_logits(network, rows, padding), labels.temperature)
    decided = [labels.names.index(labels.decide(list(row))) for row in probabilities]
    right = sum(a == b for a, b in zip(decided, rows.targets, strict=True))
    return proportion(right, len(rows.targets))


def calibrate(network: Network, val: Rows, padding: int) -> None:
    """Give the head the temperature and the threshold that suit the validation part best."""
    head = head_of(network)
    logits, targets = all_logits(network, val, padding), np.array(val.targets)
    temperature = fit_temperature(logits, targets)
    head.labels = replace(head.labels, temperature=temperature)
    if head.labels.positive is not None:
        index = head.labels.names.index(head.labels.positive)
        scores = calibrated(logits, temperature)[:, index]
        head.labels = replace(head.labels, threshold=best_threshold(targets == index, scores))
