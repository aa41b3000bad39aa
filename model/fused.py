"""Parts of a block whose gradient is written by hand, for training on a CPU.

What is no product with a weight is bound by memory there: each operation reads and writes all of
its numbers. Autograd's own backward pass of the formulas takes several times as many of them as
these need, and keeps more of them in between. The results are the same within rounding. Without a
gradient, and on a GPU, the plain formulas are computed: serving keeps its bits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def by_hand(*tensors: Tensor) -> bool:
    """Whether these are computed here: on a CPU, where one of them needs a gradient."""
    if torch.compiler.is_compiling():
        return False  # the compiler joins the plain formulas itself
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return learns and tensors[0].device.type == "cpu"


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x²) + eps) × weight (Zhang and Sennrich, 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        if not by_hand(x, self.weight):
            return super().forward(x)
        out: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(wide, weight, inverse)
        ctx.dtype = x.dtype
        out: Tensor = (wide * inverse).mul_(weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (grad * x).mul_(inverse).flatten(0, -2).sum(0)
        scaled = grad * weight
        along = (scaled * x).sum(-1, keepdim=True).mul_(inverse**3).div_(-x.shape[-1])
        of_x: Tensor = scaled.mul_(inverse).addcmul_(x, along)
        return of_x.to(ctx.dtype), of_weight, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) × up, of the two side by side: (…, 2 width) -> (…, width)"""
    out: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    """The gradient of its input is written in one piece."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        of_gate, of_up = out.chunk(2, dim=-1)
        torch.mul(grad, activated, out=of_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=of_gate)
        return out


def turn(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Pairs (x[i], x[i + width / 2]) turned by angles; see `model.positions.rotate`."""
    out: Tensor = _Turn.apply(x, cosines, sines)  # type: ignore[no-untyped-call]
    return out


class _Turn(torch.autograd.Function):
    """Its gradient is turned back by the same angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _turned(x, cosines, sines)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return _turned(grad, cosines, -sines), None, None


def _turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    # Of whole heads: loops over halves of them are too short to be fast.
    wide = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    swapped = wide.view(*x.shape[:-1], 2, -1).flip(-2).view(x.shape)
    wide.mul_(torch.cat([cosines, cosines], -1))
    return wide.addcmul_(swapped, torch.cat([-sines, sines], -1)).to(x.dtype)


def add_low_rank(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """y + (x Aᵀ) Bᵀ, in place of `y`.

    Args:
        x: (…, in)
        y: (…, out), in the dtype of `x`, and kept by nothing.
        a, b: (rank, in) and (out, rank)
    """
    out: Tensor = _LowRank.apply(x, y, a, b)  # type: ignore[no-untyped-call]
    return out


class _LowRank(torch.autograd.Function):
    """A and B are multiplied in the dtype of `x`, and what is kept are `x` and its few numbers in
    between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        rows = x.flatten(0, -2)
        down = rows @ a.T
        ctx.save_for_backward(x, down, a, b)
        # The same memory, for `y` itself may be a view to autograd, which it would follow.
        out = y.detach()
        out.view(-1, y.shape[-1]).addmm_(down, b.T)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        x, down, a, b = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_down = rows @ b
        of_x = (of_down @ a).view(x.shape) if ctx.needs_input_grad[0] else None
        of_a, of_b = of_down.T @ x.flatten(0, -2), rows.T @ down
        return of_x, grad, of_a.float(), of_b.float()
