"""The linear layers of the network, which adapters name, and the token embedding."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dora import Layer


class Adapts(Protocol):
    """Adapters of the rows of a batch; see `model.lora`."""

    def adapt(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        """`y`, the output of `layer` for `x`, with each row's adapter added."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, tile: int | None) -> Tensor:
    """x Wᵀ + b: (…, in) -> (…, out).

    Args:
        tile: rows of every product. A row's last bits depend on how many rows are multiplied at
            once; with a fixed number it gets the same bits in every batch. (With another number of
            threads they may differ: MKL divides the sums of some shapes among them.) None takes all
            at once.
    """
    if tile is None:
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    tiles = F.pad(rows, (0, 0, 0, -len(rows) % tile)).view(-1, tile, x.shape[-1])
    y = x.new_empty(len(tiles), tile, len(weight))
    for given, out in zip(tiles, y, strict=True):
        out[:] = F.linear(given, weight, bias)
    return y.view(-1, len(weight))[: len(rows)].view(*x.shape[:-1], len(weight))


def product_dtype(x: Tensor) -> torch.dtype:
    """In which `x` is multiplied here: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def by_row(function: Callable[[Tensor], Tensor], x: Tensor, tile: int | None) -> Tensor:
    """`function` of `x`, (…, width), where each element depends on itself alone.

    The last few elements of what a thread gets are computed by another formula than those before,
    with other last bits. With a `tile`, each row is therefore a call of its own, in which they are
    always the same ones.
    """
    if tile is None:
        return function(x)
    return torch.stack([function(row) for row in x.flatten(0, -2)]).view(x.shape)


class Projection(nn.Linear):
    """A linear layer that an adapter can name.

    Args:
        path: of this layer within the network.
        parts: what its output channels are, by the names of adapters' targets, in order: how many
            channels each has. Layers that read the same input are stored as one.
    """

    def __init__(
        self, path: str, in_features: int, parts: Mapping[str, int], *, bias: bool
    ) -> None:
        super().__init__(in_features, sum(parts.values()), bias)
        self.path = path
        self.parts = dict(parts)
        self.tile: int | None = None

    def forward(self, x: Tensor, adapters: Adapts | None = None) -> Tensor:
        if adapters is not None:
            x = x.to(product_dtype(x))  # once for all products
        y = linear(x, self.weight, self.bias, self.tile)
        return y if adapters is None else adapters.adapt(self, x, y)

    def wide_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        yield slice(None), self.weight.float()


class Embedding(nn.Embedding):
    """An embedding that is not filled while it has no memory: on the meta device, drawing from a
    normal distribution makes torch import its compiler, which takes seconds."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class TokenEmbedding(Embedding):
    """The token embedding, which is the output head as well where the two are tied."""

    tile: int | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, n_embd) -> (…, vocab)"""
        return linear(hidden, self.weight, None, self.tile)


class OutputHead(nn.Linear):
    """An output head of its own."""

    tile: int | None = None

    def __init__(self, n_embd: int, vocab_size: int) -> None:
        super().__init__(n_embd, vocab_size, bias=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, n_embd) -> (…, vocab)"""
        return linear(hidden, self.weight, None, self.tile)
