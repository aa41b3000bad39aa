"""Cross-entropy over tokens, without holding the logits of all of them at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.transformer import Transformer

IGNORE = -100
"""A target with this value adds nothing to the loss."""

_CHUNK = 1024


def token_loss(model: Transformer, hidden: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Sum of the cross-entropy over the targets that count, and how many they are.

    Positions whose target is `IGNORE` do not reach the output layer. The logits, by far the
    largest tensor of a step, are computed in chunks that stay in the processor's cache.

    Args:
        hidden: (batch, time, n_embd)
        targets: (batch, time) int64
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    counted = targets != IGNORE
    count = int(counted.sum())
    if count < len(targets):
        hidden, targets = hidden[counted], targets[counted]
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, goal in zip(torch.split(hidden, _CHUNK), torch.split(targets, _CHUNK), strict=True):
        total = total + _chunk_loss(model, part, goal)
    return total, count


def token_losses(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each target by itself, in the same chunks.

    Args:
        hidden: (n, n_embd)
        targets: (n,) int64, all of them real

    Returns:
        (n,) fp32
    """
    parts = zip(torch.split(hidden, _CHUNK), torch.split(targets, _CHUNK), strict=True)
    return torch.cat(
        [F.cross_entropy(model.logits(h).float(), goal, reduction="none") for h, goal in parts]
    )


def _chunk_loss(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(hidden).float(), targets, reduction="sum")


def row_log_probs(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """For each row, the log-probabilities of its targets that count, summed.

    Args:
        hidden: (batch, time, n_embd)
        targets: (batch, time) int64

    Returns:
        (batch,) fp32
    """
    rows, places = (targets != IGNORE).nonzero(as_tuple=True)
    losses = token_losses(model, hidden[rows, places], targets[rows, places])
    return hidden.new_zeros(len(targets), dtype=torch.float32).index_add(0, rows, -losses)
