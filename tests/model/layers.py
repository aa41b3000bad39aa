"""Quantized layers of each kind, for tests."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu import library
from model.cpu.linear import group_scales, nested
from model.cpu.quantize import quantize_weight

KINDS = ["plain", "grouped", "nibbles", "halves", "nested"]
"""As kernels.h calls them."""
FOUR_BITS = ("nibbles", "nested")


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
    if kind in FOUR_BITS:
        return (in_nibbles if kind == "nibbles" else in_nested)(weight)
    values, scale = quantize_weight(weight, grouped=kind != "plain")
    return values, scale.half() if kind == "halves" else scale


def in_nibbles(weight: Tensor, *, grouped: bool = True) -> tuple[Tensor, Tensor]:
    """What `quantize_weight` does, with 4 bits: from the least of each 32 inputs to the largest."""
    inputs = weight.shape[1]
    groups = F.pad(weight, (0, -inputs % 32)).unflatten(1, (-1, 32))
    least, largest = groups.aminmax(dim=2)
    scale = torch.stack([(largest - least) / 15, least], dim=-1).half()
    return _nearest(groups, scale)[:, :inputs], scale


def in_nested(weight: Tensor, *, grouped: bool = True) -> tuple[Tensor, Tensor]:
    """The same, with what Q4_K has as scales: minima are never above zero."""
    inputs = weight.shape[1]
    supers = F.pad(weight, (0, -inputs % 256)).unflatten(1, (-1, 8, 32))
    outer, inner = _in_six_bits(-supers.amin(dim=3).clamp(max=0))
    least = -outer[..., None].float() * inner
    of_scale = _in_six_bits((supers.amax(dim=3) - least) / 15)
    outer, inner = torch.stack([of_scale[0], -outer], 2), torch.stack([of_scale[1], inner], 2)
    scale = nested(outer, inner)
    return _nearest(supers.flatten(1, 2), group_scales(scale))[:, :inputs], scale


def _in_six_bits(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(out, supers, 8), not below zero, as fp16 (out, supers) times whole numbers up to 63"""
    outer = (wanted.amax(dim=2) / 63).half()
    inner = torch.where(outer[..., None] > 0, wanted / outer[..., None].float(), 0.0).ceil()
    return outer, inner.clamp(max=63).to(torch.uint8)


def _nearest(groups: Tensor, scale: Tensor) -> Tensor:
    """(out, groups, 32) -> (out, inputs) of 4 bits"""
    step, minimum = scale.float().unsqueeze(2).unbind(-1)
    values = torch.where(step > 0, (groups - minimum) / step, 0.0).round().clamp(0, 15)
    return values.flatten(1).to(torch.uint8)
