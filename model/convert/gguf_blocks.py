"""What the blocks of a GGUF file become: numbers, or what the kernels multiply as it is.

    kind   a block of 32             as it is multiplied
    Q4_0   d, q of 4 bits: d (q - 8)  q, with the scale d and the minimum -8 d
    Q4_1   d, m, q of 4 bits: d q + m  q, with d and m
    Q8_0   d, q of 8 bits: d q        q, with d
    Q4_K   d, e, and of each of 8     q, with the scale d s and the minimum -e n, as products
           s, n of 6 bits, q of 4:
           d s q - e n

d, e and m are fp16 there as here, so nothing is rounded: -8 d has the digits of d. The package
`gguf` turns the other kinds into numbers.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cpu.linear import GROUP, SUPER, nested, nibbles
from model.errors import UsageError

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SCALES = {"Q4_0": 1, "Q4_1": 2, "Q8_0": 1}
"""How many numbers in fp16 a block begins with, where the kernels can multiply it."""


def decoder(kind: str, source: Path) -> Callable[[NDArray[np.uint8]], Tensor]:
    """What turns blocks, (blocks, bytes of one), into numbers in one row.

    Args:
        source: the file, for the error.

    Raises:
        UsageError: `gguf` is not installed, which quantized tensors need.
    """
    if kind in _PLAIN:
        return lambda blocks: torch.from_numpy(blocks.reshape(-1)).view(_PLAIN[kind])
    try:
        import gguf
    except ImportError as error:
        raise UsageError(
            f"{source}: has tensors of {kind}, which need the package gguf (`pip install gguf`)"
        ) from error
    number = gguf.GGMLQuantizationType[kind]

    def dequantize(blocks: NDArray[np.uint8]) -> Tensor:
        with np.errstate(all="ignore"):  # a scale that is not finite
            # As one row: the package goes through 16 rows at a time, in Python.
            row = gguf.quants.dequantize(blocks.reshape(1, -1), number)
        return torch.from_numpy(row.reshape(-1))

    return dequantize


def packed(
    blocks: NDArray[np.uint8], kind: str, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor] | None:
    """A matrix as the kernels can multiply it, if they can.

    Args:
        blocks: (blocks, bytes of one), of the whole matrix.
        shape: (out, in), the latter a multiple of 32.

    Returns:
        two numbers a byte (out, in / 2) uint8, and scale and minimum (out, groups, 2) fp16, or all
        that Q4_K has in their place, as `nested` gives it; or numbers (out, in) int8, and scales
        (out, groups) fp16. None where it is of another kind, or has a scale or a minimum that is
        not finite.
    """
    if kind == "Q4_K" and len(shape) == 2:
        return _packed_supers(blocks, shape)
    if kind not in _SCALES or len(shape) != 2:
        return None
    behind = 2 * _SCALES[kind]
    groups = (shape[0], shape[1] // GROUP)
    scale = torch.from_numpy(np.array(blocks[:, :behind])).view(torch.float16).view(*groups, -1)
    if kind == "Q4_0":
        scale = torch.cat([scale, -8 * scale], dim=2)
    if not scale.isfinite().all():
        return None
    values = torch.from_numpy(np.array(blocks[:, behind:])).view(shape[0], -1)
    return (
        (values.view(torch.int8), scale[..., 0].contiguous()) if kind == "Q8_0" else (values, scale)
    )


def _packed_supers(
    blocks: NDArray[np.uint8], shape: tuple[int, ...]
) -> tuple[Tensor, Tensor] | None:
    """A matrix in Q4_K: bytes of d and e, 12 of the 6-bit numbers, 128 of the weights."""
    whole = torch.from_numpy(np.array(blocks)).view(shape[0], -1, 144)
    outer = whole[..., :4].contiguous().view(torch.float16)
    if not outer.isfinite().all():
        return None
    low, high, rest = whole[..., 4:16].reshape(*whole.shape[:2], 3, 4).unbind(2)
    # The first four are 6 bits of a byte; of the others, 4 bits are in `rest`, 2 above those 6.
    scales = torch.cat([low & 63, rest & 15 | low >> 6 << 4], dim=2)
    minima = torch.cat([high & 63, rest >> 4 | high >> 6 << 4], dim=2)
    # 32 bytes have a group in their low halves, and the next one in their high halves.
    pairs = whole[..., 16:].reshape(*whole.shape[:2], SUPER // 2, GROUP)
    values = torch.stack([pairs & 15, pairs >> 4], dim=3).flatten(1)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float16)
    return nibbles(values), nested(outer * signs, torch.stack([scales, minima], dim=2))
