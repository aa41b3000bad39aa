"""Several conversations in one row of a batch, each of which sees itself alone.

Rows of different lengths are padded to the longest; packed, they stand one after another, and
nothing is computed for padding (Krell et al., "Efficient Sequence Packing without
Cross-contamination", 2021). Positions begin anew with each conversation, and attention is that of
each by itself: the loss is the same as without packing, rounding aside.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import groupby
from math import log

import torch
from torch import Tensor

from model.attention import causal_attention
from training.loop.task import Batch
from training.objectives.conversations import Conversation, targets_of

_ALIKE = log(1.25)
"""Sequences within this factor are padded to one length for their attention, which so wastes at
most a third of its work; each length by itself would be too many small products."""


def packs(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Which sequences share a row: best fit, the longest first (Johnson, 1973).

    Args:
        lengths: of each sequence, at most `limit`.
        limit: tokens of a row.

    Returns:
        Indices of the sequences of each row, in ascending order
    """
    found: list[list[int]] = []
    room: list[tuple[int, int]] = []  # that is left, and in which row; ascending
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        at = bisect_left(room, (lengths[index], 0))
        if at == len(room):
            found.append([])
            room.append((limit, len(found) - 1))
        left, row = room.pop(at)
        found[row].append(index)
        insort(room, (left - lengths[index], row))
    return [sorted(row) for row in found]


class PackedAttention:
    """Attention of whole sequences in one flat dimension, for `Transformer.forward`.

    Args:
        lengths: of each sequence, in order.
        dropout: probability that a weight of the attention is dropped.
    """

    def __init__(
        self, lengths: Sequence[int], device: torch.device, *, dropout: float = 0.0
    ) -> None:
        self.dropout = dropout
        self.positions = torch.cat([torch.arange(n) for n in lengths]).to(device)
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        by_length = sorted(zip(lengths, starts, strict=True))
        self._groups: list[tuple[Tensor, Tensor]] = []
        for _, group in groupby(by_length, lambda pair: int(log(pair[0]) / _ALIKE)):
            pairs = list(group)
            places = torch.arange(pairs[-1][0])
            sizes, begins = (torch.tensor(part)[:, None] for part in zip(*pairs, strict=True))
            real = places < sizes
            # Padding repeats a token of its own sequence, after all that could see it.
            index = begins + torch.minimum(places, sizes - 1)
            self._groups.append((index.to(device), real.to(device)))
        order = torch.cat([index[real] for index, real in self._groups])
        self._back = order.argsort()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(tokens, head, head_dim); the heads of `key` and `value` may be fewer."""
        found = []
        for index, real in self._groups:
            q, k, v = (part[index] for part in (query, key, value))
            found.append(causal_attention(q, k, v, self.dropout)[real])
        return torch.cat(found)[self._back]


class PackedBatch(Batch):
    """Inputs and targets are flat, (1, tokens); `lengths` are those of the conversations."""


def pack(conversations: Sequence[Conversation], device: torch.device) -> PackedBatch:
    """All of `conversations`, one after another."""
    inputs = [token for each in conversations for token in each.tokens[:-1]]
    targets = [target for each in conversations for target in targets_of(each)]
    return PackedBatch(
        torch.tensor([inputs], device=device),
        torch.tensor([targets], device=device),
        torch.tensor([len(each.tokens) - 1 for each in conversations]),
        count=sum(each.targets for each in conversations),
    )
