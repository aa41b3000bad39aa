"""Gradients written by hand are those that autograd finds for the plain formulas."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import fused
from model.attention import HeadNorm
from model.fused import RMSNorm, add_low_rank, swiglu
from model.positions import rotate


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def compare(
    ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor, bound: float
) -> None:
    """Values and gradients of all inputs, for a gradient that differs everywhere."""
    found = []
    for function in (ours, plain):
        out = function(*inputs)
        grad = torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype)
        found.append([out.detach(), *torch.autograd.grad(out, inputs, grad)])
    for one, two in zip(*found, strict=True):
        assert one.dtype == two.dtype
        assert (one - two).norm() <= bound * two.norm()


precisions = pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)]
)


@precisions
@pytest.mark.parametrize("kind", [RMSNorm, HeadNorm])
def test_rms_norm(kind: type[RMSNorm], dtype: torch.dtype, bound: float) -> None:
    norm = kind(48, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 48))
    plain = nn.RMSNorm(48, eps=1e-5)

    def formula(x: Tensor, weight: Tensor) -> Tensor:
        out = F.rms_norm(x.float(), plain.normalized_shape, weight, 1e-5)
        return out.to(dtype) if kind is HeadNorm else out

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        assert weight is norm.weight
        out: Tensor = norm(x)
        return out

    compare(ours, formula, drawn(3, 5, 48, dtype=dtype), norm.weight, bound=bound)


@precisions
def test_swiglu(dtype: torch.dtype, bound: float) -> None:
    def plain(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    compare(swiglu, plain, drawn(3, 5, 40, dtype=dtype), bound=bound)


@precisions
def test_rotation(dtype: torch.dtype, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    angles = drawn(7, 8).detach().float()
    turned = angles.cos(), angles.sin()

    def plain(x: Tensor) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr("model.positions.by_hand", lambda *tensors: False)
            return rotate(x, turned)

    # As the queries stand in the output of their projection: not in a row.
    x = drawn(2, 7, 6, 16, dtype=dtype)
    compare(lambda x: rotate(x[:, :, :4], turned), lambda x: plain(x[:, :, :4]), x, bound=bound)


@precisions
def test_low_rank(dtype: torch.dtype, bound: float) -> None:
    def ours(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return add_low_rank(x, y * 1, a, b)

    def plain(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return y + F.linear(F.linear(x, a.to(dtype)), b.to(dtype))

    x, y = drawn(3, 5, 24, dtype=dtype), drawn(3, 5, 40, seed=1, dtype=dtype)
    a, b = (drawn(*shape, dtype=torch.float32) for shape in ((4, 24), (40, 4)))
    compare(ours, plain, x, y, a, b, bound=bound)


def test_it_is_for_what_learns_on_a_cpu() -> None:
    x = torch.zeros(2)
    assert not fused.by_hand(x)
    assert fused.by_hand(x, torch.zeros(2, requires_grad=True))
    assert not fused.by_hand(torch.zeros(2, device="meta", requires_grad=True))
    with torch.no_grad():
        assert not fused.by_hand(torch.zeros(2, requires_grad=True))
