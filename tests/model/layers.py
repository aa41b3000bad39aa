"""Quantized layers of each kind, for tests."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu import library
from model.cpu.quantize import quantize_weight

KINDS = ["plain", "grouped", "nibbles", "halves"]
"""As kernels.h calls them."""


def kernel_or_skip(path: str | None = None) -> library.Kernel:
    try:
        kernel = library.load(path)
    except ValueError:
        pytest.skip(f"this processor has no {path}")
    if kernel is None:
        pytest.skip("the C kernels were not compiled when the package was installed")
    return kernel


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def numbers_of(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(out, in) as the values and the scale of a layer of that kind."""
    if kind == "nibbles":
        return in_nibbles(weight)
    values, scale = quantize_weight(weight, grouped=kind != "plain")
    return values, scale.half() if kind == "halves" else scale


def in_nibbles(weight: Tensor, *, grouped: bool = True) -> tuple[Tensor, Tensor]:
    """What `quantize_weight` does, with 4 bits: from the least of each 32 inputs to the largest."""
    inputs = weight.shape[1]
    groups = F.pad(weight, (0, -inputs % 32)).unflatten(1, (-1, 32))
    least, largest = groups.aminmax(dim=2)
    scale = torch.stack([(largest - least) / 15, least], dim=-1).half()
    step, minimum = scale.float().unsqueeze(2).unbind(-1)
    values = torch.where(step > 0, (groups - minimum) / step, 0.0).round().clamp(0, 15)
    return values.flatten(1)[:, :inputs].to(torch.uint8), scale
