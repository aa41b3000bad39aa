"""Weight-decomposed adapters (Liu et al., "DoRA", 2024): each output channel's length is learnt by
itself, and a low-rank change turns its direction alone.

    W' = m (W + B A) / ‖W + B A‖    with the norm of each output channel, B times its scale

So a product z = (W + B A) x + b becomes b + m / ‖W + B A‖ (z − b). To the gradient the norm is a
constant (section 4.3), computed anew in each step. Once training is over it is one: an adapter then
holds the quotient less 1, the *gain* of a channel. That needs no weights of the base to be served,
is 0 where nothing was learnt, and is small enough that bf16 keeps three of its digits, where of m
itself it would round away much of what was learnt.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

_SMALLEST = 1e-24
"""Of a squared norm: a channel of zeros has a direction, too."""


class Layer(Protocol):
    """A projection that is adapted."""

    path: str

    @property
    def bias(self) -> Tensor | None:
        """(out,)"""

    def wide_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The matrix in fp32, a block of output channels at a time: no copy of it all is made."""


@torch.no_grad()
def channel_norms(layer: Layer, a: Tensor, b: Tensor) -> Tensor:
    """‖W + B A‖ of each output channel, with W as it is held: (out,) fp32

    By ‖W‖² + 2 ⟨W, B A⟩ + ‖B A‖², which takes no matrix of W's size but W.

    Args:
        a, b: (rank, in) and (out, rank), the adapter's scale multiplied in.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        squares = (b @ (a @ a.T)).mul_(b).sum(1)
        for rows, wide in layer.wide_blocks():
            squares[rows] += torch.linalg.vector_norm(wide, dim=1).square_()
            squares[rows] += (wide @ a.T).mul_(b[rows]).sum(1).mul_(2)
        return squares.clamp_(min=_SMALLEST).sqrt_()


def scaled(z: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """b + (1 + gain) (z − b), in the dtype of `z`: the same operations for every row.

    Args:
        z: (…, out)
        gain: (out,) fp32
    """
    shifted = z if bias is None else z - bias
    return (z + shifted * gain).to(z.dtype)
