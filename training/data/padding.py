"""Rows of different lengths in one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def padded_length(lengths: Sequence[int], batch_size: int) -> int:
    """Tokens that a row takes on average when each batch is as long as its longest row."""
    starts = range(0, len(lengths), batch_size)
    longest = [max(lengths[start : start + batch_size]) for start in starts]
    return max(1, sum(longest) // len(longest))


def pad_rows(
    rows: Sequence[Sequence[int]], value: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as (rows, longest), filled up on the right, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), value, dtype=torch.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row)
    return padded.to(device), lengths.to(device)
