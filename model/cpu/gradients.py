"""The kernels of training (`kernels/gradients.c`): parts of a block, forward and backward.

Tensors are fp32 or bf16, on the CPU; angles, weights and what is kept of a norm are fp32.
"""

import ctypes

import torch
from torch import Tensor

from model.cpu.library import Kernel, require

DTYPES = (torch.float32, torch.bfloat16)


class _Numbers(ctypes.Structure):
    """`Numbers` in gradients.c."""

    _fields_ = [("data", ctypes.c_void_p), ("bf16", ctypes.c_int64)]


class _Heads(ctypes.Structure):
    """`Heads` in gradients.c."""

    _fields_ = [
        ("batch", ctypes.c_int64),
        ("time", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("of_batch", ctypes.c_int64),
        ("of_time", ctypes.c_int64),
        ("of_head", ctypes.c_int64),
        ("angles_of_batch", ctypes.c_int64),
        ("angles_of_time", ctypes.c_int64),
    ]


def _numbers(tensor: Tensor) -> "ctypes._CArgObject":
    require(
        tensor.is_cpu and tensor.dtype in DTYPES,
        f"the kernels take fp32 and bf16 on the CPU; this is {tensor.dtype} on {tensor.device}",
    )
    return ctypes.byref(_Numbers(tensor.data_ptr(), tensor.dtype == torch.bfloat16))


def _floats(tensor: Tensor, count: int) -> int:
    fits = tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous()
    require(fits and tensor.numel() == count, f"{count} numbers in fp32 are needed in a row")
    return tensor.data_ptr()


def _call(kernel: Kernel, name: str, *arguments: object) -> None:
    if getattr(kernel.library, name)(*arguments, kernel.path, torch.get_num_threads()):
        raise MemoryError(f"{name}: no memory")


def rms_norm(
    kernel: Kernel, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean(x²) + eps) × weight in `dtype`, and what each row was multiplied by.

    Args:
        x: (…, n), contiguous.
    """
    require(x.is_contiguous(), "x must be contiguous")
    n = x.shape[-1]
    rows = x.numel() // n
    y, inverse = torch.empty_like(x, dtype=dtype), torch.empty(rows, dtype=torch.float32)
    sizes = (ctypes.c_float(eps), rows, n)
    place = inverse.data_ptr()
    _call(kernel, "train_rms_norm", _numbers(x), _floats(weight, n), *sizes, _numbers(y), place)
    return y, inverse


def rms_norm_gradient(
    kernel: Kernel, grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> Tensor:
    """The gradient of x, in its dtype."""
    grad = grad.contiguous()
    require(grad.shape == x.shape and x.is_contiguous(), "grad must have the shape of x")
    n = x.shape[-1]
    rows = x.numel() // n
    of_x = torch.empty_like(x)
    places = (_floats(weight, n), _floats(inverse, rows))
    _call(
        kernel,
        "train_rms_norm_gradient",
        *(_numbers(grad), _numbers(x), *places, rows, n, _numbers(of_x)),
    )
    return of_x


def swiglu(kernel: Kernel, both: Tensor) -> Tensor:
    """silu(gate) × up, (…, n), of the two side by side, (…, 2 n) and contiguous."""
    n = both.shape[-1] // 2
    require(both.is_contiguous() and both.shape[-1] == 2 * n, "gate and up must stand in a row")
    y = both.new_empty(*both.shape[:-1], n)
    _call(kernel, "train_swiglu", _numbers(both), y.numel() // n, n, _numbers(y))
    return y


def swiglu_gradient(kernel: Kernel, grad: Tensor, both: Tensor) -> Tensor:
    """The gradient of `both`."""
    n = both.shape[-1] // 2
    grad = grad.contiguous()
    require(grad.numel() * 2 == both.numel() and both.is_contiguous(), "grad has another shape")
    of_both = torch.empty_like(both)
    rows = grad.numel() // n
    _call(
        kernel,
        "train_swiglu_gradient",
        *(_numbers(grad), _numbers(both), rows, n, _numbers(of_both)),
    )
    return of_both


def turn(kernel: Kernel, x: Tensor, cosines: Tensor, sines: Tensor, sign: int) -> Tensor:
    """The pairs (x[i], x[i + dim / 2]) turned by their angles, or back by them.

    Args:
        x: (…, time, head, dim), where the numbers of a head stand side by side.
        cosines, sines: (…, time, 1, dim / 2), in fp32.
        sign: 1, or -1 to turn back.

    Returns:
        of the shape of `x`, contiguous
    """
    shape, dim = x.shape, x.shape[-1]
    x = x if x.stride(-1) == 1 else x.contiguous()
    x = x.reshape(-1, *shape[-3:])
    cosines, sines = (
        part.expand(*shape[:-2], 1, dim // 2).reshape(*x.shape[:2], dim // 2)
        for part in (cosines, sines)
    )
    same = cosines.stride() == sines.stride() and cosines.dtype == sines.dtype == torch.float32
    require(same and cosines.stride(-1) == 1 and dim % 2 == 0, "the angles are not in rows of fp32")
    y = torch.empty(shape, dtype=x.dtype)
    heads = _Heads(*x.shape, *x.stride()[:3], *cosines.stride()[:2])
    places = (cosines.data_ptr(), sines.data_ptr(), ctypes.c_float(sign))
    _call(kernel, "train_turn", _numbers(x), ctypes.byref(heads), *places, _numbers(y))
    return y


def cross_entropy(kernel: Kernel, logits: Tensor, targets: Tensor, losses: Tensor) -> None:
    """Fill in the cross-entropy of each row, and turn its logits into their gradient: the
    probabilities, less one at the target.

    Args:
        logits: (rows, n), contiguous.
        targets: (rows,) int64, of 0 to n - 1
        losses: (rows,) fp32
    """
    rows, n = logits.shape
    targets = targets.contiguous()
    fit = logits.is_contiguous() and targets.shape == (rows,) and targets.dtype == torch.int64
    require(fit and targets.is_cpu, "logits must be contiguous, and each row have a target")
    within = not rows or 0 <= int(targets.min()) <= int(targets.max()) < n
    require(within, f"targets must be from 0 to {n - 1}")
    places = (_numbers(logits), targets.data_ptr(), rows, n, _floats(losses, rows))
    _call(kernel, "train_cross_entropy", *places)
