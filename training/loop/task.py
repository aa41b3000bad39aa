"""What the training loop asks of a task: data, a loss and metrics, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from training.data.order import ShuffledOrder

IGNORE = -100
"""A target with this value adds nothing to the loss."""


@dataclass(frozen=True)
class Batch:
    """Examples of one forward pass."""

    inputs: Tensor
    """Token ids, (batch, time)."""
    targets: Tensor
    """What is to be predicted: token ids, (batch, time), or labels, (batch,)."""
    lengths: Tensor
    """Real tokens of each row, (batch,); what follows them is padding."""
    count: int
    """How many items the loss is a mean over: target tokens, or rows."""

    @property
    def tokens(self) -> int:
        """Tokens computed, for the rate."""
        return self.inputs.numel()


class Task(Protocol):
    """What differs between trainings."""

    name: str
    examples: int
    """Training examples in an epoch."""
    tokens_per_example: int
    """For `--tokens`: the usual length of an example."""
    keep_best: bool
    """Whether the weights of the best evaluation are published, or those of the last step."""

    @property
    def lengths(self) -> Sequence[int] | None:
        """Of each example, where they differ: batches are then made of similar ones."""

    @property
    def trained(self) -> nn.Module:
        """Holds the parameters that learn (those with `requires_grad`)."""

    def batch(self, examples: Sequence[int]) -> Batch:
        """The batch that holds the examples of these indices."""

    def loss(self, batch: Batch) -> Tensor:
        """The loss summed over the batch's `count` items."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on fixed batches of the validation part; has `val_loss`."""

    def samples(self) -> list[str]:
        """Text that shows what the network does so far."""


def padded_length(lengths: Sequence[int], batch_size: int, seed: int) -> int:
    """Tokens that a row takes on average in the batches of an epoch, which are as long as their
    longest rows: see `ShuffledOrder`."""
    order = ShuffledOrder(len(lengths), seed, lengths, batch_size)
    epoch = [lengths[order[position]] for position in range(len(lengths))]
    starts = range(0, len(epoch), batch_size)
    longest = [max(epoch[start : start + batch_size]) for start in starts]
    return max(1, round(sum(longest) / len(longest)))


def pad_rows(
    rows: Sequence[Sequence[int]], value: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as (rows, longest), filled up on the right, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), value, dtype=torch.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row)
    return padded.to(device), lengths.to(device)
