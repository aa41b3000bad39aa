"""Parts of a block whose gradient is written by hand, for training on a CPU.

What is no product with a weight is bound by memory there: each operation reads and writes all of
its numbers. Autograd's own backward pass of the formulas takes several times as many of them as
these need, and keeps more of them in between. The results are the same within rounding. Without a
gradient, on a GPU, in other types, and where the kernels were not compiled, the plain formulas are
computed: serving keeps its bits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.cpu import gradients
from model.cpu.library import Kernel, load


def by_hand(*tensors: Tensor) -> bool:
    """Whether these are computed here: by the kernels, where one of them needs a gradient."""
    if torch.compiler.is_compiling():
        return False  # the compiler joins the plain formulas itself
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    fit = all(tensor.is_cpu and tensor.dtype in gradients.DTYPES for tensor in tensors)
    return learns and fit and load() is not None


def _kernel() -> Kernel:
    kernel = load()
    assert kernel is not None, "`by_hand` has looked"
    return kernel


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x²) + eps) × weight (Zhang and Sennrich, 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        if not by_hand(x, self.weight):
            return super().forward(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        out: Tensor = _RMSNorm.apply(x, self.weight, eps)  # type: ignore[no-untyped-call]
        return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        # What follows is a product, for which autocast would round it.
        narrow = torch.is_autocast_enabled("cpu")
        narrow = narrow and torch.get_autocast_dtype("cpu") == torch.bfloat16
        dtype = torch.bfloat16 if narrow else torch.float32
        out, inverse = gradients.rms_norm(_kernel(), x, weight, eps, dtype)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (grad * x).flatten(0, -2).mul_(inverse[:, None]).sum(0)
        return gradients.rms_norm_gradient(_kernel(), grad, x, weight, inverse), of_weight, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) × up, of the two side by side: (…, 2 width) -> (…, width)"""
    out: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        return gradients.swiglu(_kernel(), gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return gradients.swiglu_gradient(_kernel(), grad, *ctx.saved_tensors)


def turn(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Pairs (x[i], x[i + width / 2]) turned by angles; see `model.positions.rotate`."""
    out: Tensor = _Turn.apply(x, cosines, sines)  # type: ignore[no-untyped-call]
    return out


class _Turn(torch.autograd.Function):
    """Its gradient is turned back by the same angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return gradients.turn(_kernel(), x, cosines, sines, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return gradients.turn(_kernel(), grad, cosines, sines, -1), None, None


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
