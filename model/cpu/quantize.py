"""8-bit weights for serving on a CPU: a quarter of the memory to read for each token.

    quantize(base.model)        # in place; the network then computes in fp32 around the products

Every weight is a whole number in [-127, 127] times a scale of its output channel. Each row of
activations is a byte in [0, 255], less a zero point, times a scale of its own: a row therefore
depends on no other row. The products are summed exactly, in integers. What is no product (norms,
attention, rotations, adapters, biases) stays in fp32.

Networks with SwiGLU have a few very large activations, beside which one scale a row leaves little
of the others, and a margin between two tokens is soon lost: their layers are *grouped*. Each 32
weights of a channel have a scale, and each 32 activations of a row. What each part costs SmolLM2 is
in tests/README.md.

What is packed (`model.frozen`), as a GGUF file's matrices of 4 or 8 bits can be, is multiplied as
the file has it: such a layer is grouped, and of its weights nothing is lost. Others can be given
4 bits, too (`model.cpu.four_bits`), but for the embedding and the output head, which stay at 8.

The token embedding is quantized, too, and looked up in the 8-bit output head where the two are
tied. A copy of it in bf16 would be the largest tensor of the process (77 MB beside the 124 MB of
GPT-2's weights in 8 bits), and what it would improve is small: see
tests/model/test_quantized_network.py.

With the C kernel (`model.cpu`) all blocks are one call of it, at the speed of memory; attention
and adapters are then computed there, too, and a row gets the same bits in every batch. Without it
torch computes the same linear layers bit for bit, several times slower.
"""

import ctypes
import functools
import math
import sys
from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cpu import four_bits, library
from model.cpu.library import Kernel
from model.cpu.linear import GROUP, PackedLinear, group_scales, unpacked
from model.cpu.quantized_blocks import QuantizedBlocks, fits
from model.errors import UsageError
from model.projection import Adapts, Projection
from model.transformer import Transformer
from model.weight_files import dtype_name

_ROWS_AT_ONCE = 4096
_EXACT_INPUTS = 512  # 512 × 255 × 127 < 2^24: sums of so many products are exact in fp32


class Layer(Protocol):
    """A quantized layer: `PackedLinear`, or `TorchLinear`."""

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features), fp32"""

    def rows(self, channels: Tensor) -> Tensor:
        """The weights of some output channels: (…,) -> (…, in_features), fp32"""

    @property
    def bits(self) -> int:
        """Of a weight."""


class TorchLinear:
    """What the kernel computes, bit for bit, in torch alone.

    Args:
        values, scale, bias: as of `PackedLinear`.
    """

    def __init__(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.values = values
        self.scale = group_scales(scale)
        self.grouped = scale.ndim > 1
        self.bits = 4 if scale.ndim > 2 else 8
        self.sums = values.sum(1, dtype=torch.int32)
        self.bias = torch.zeros(len(values)) if bias is None else bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.float().reshape(-1, x.shape[-1])
        if self.grouped:
            y = self._by_groups(rows) + self.bias
        else:
            quantized, step, zero = quantize_rows(rows)
            sums = exact_product(quantized, self.values) - zero.int() * self.sums
            y = sums.float() * (step * self.scale) + self.bias
        return y.view(*x.shape[:-1], len(self.values))

    def _by_groups(self, rows: Tensor) -> Tensor:
        sums = torch.zeros(len(rows), len(self.values))
        for group, start in enumerate(range(0, rows.shape[1], GROUP)):
            inputs = slice(start, start + GROUP)
            whole, step = quantize_group(rows[:, inputs])
            # 32 × 127 × 127 < 2^24: exact in fp32, whatever the order.
            of_group = F.linear(whole, self.values[:, inputs].float()) * step
            if self.scale.ndim == 2:
                sums = fused(of_group, self.scale[:, group].float(), sums)
            else:
                scale, minimum = self.scale[:, group].float().unbind(1)
                of_row = whole.sum(1, keepdim=True) * step
                sums = fused(of_row, minimum, fused(of_group, scale, sums))
        return sums

    def rows(self, channels: Tensor) -> Tensor:
        rows = channels.flatten()
        values, scale = self.values[rows], self.scale[rows]
        found = numbers(values, scale) if self.grouped else values * scale[:, None]
        return found.view(*channels.shape, -1)


def numbers(values: Tensor, scale: Tensor) -> Tensor:
    """What whole numbers stand for in a grouped layer, in fp32: (channels, in).

    Args:
        values, scale: as of `PackedLinear`.
    """
    scale = group_scales(scale).float().repeat_interleave(GROUP, 1)[:, : values.shape[1]]
    return values * scale if scale.ndim == 2 else values * scale[..., 0] + scale[..., 1]


def quantize_weight(weight: Tensor, *, grouped: bool = False) -> tuple[Tensor, Tensor]:
    """(out, in) of any float as whole numbers and their scales.

    Args:
        grouped: whether each 32 inputs have a scale of their own.

    Returns:
        values (out, in) int8; scale (out,) fp32, or grouped (out, groups) bf16
    """
    inputs = weight.shape[1]
    size = GROUP if grouped else inputs
    values = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(len(weight), -(-inputs // size))
    for start in range(0, len(weight), _ROWS_AT_ONCE):  # no fp32 copy of the whole
        rows = slice(start, start + _ROWS_AT_ONCE)
        part = F.pad(weight[rows].float(), (0, -inputs % size))
        part = part.view(len(part), -1, size)
        found = part.abs().amax(2) / 127
        scale[rows] = found.bfloat16() if grouped else found
        # Zeros, or next to nothing, become zeros.
        inverse = torch.where(scale[rows] > 1e-30, 1 / scale[rows], 0.0)
        whole = (part * inverse[..., None]).round_().clamp_(-127, 127).to(torch.int8)
        values[rows] = whole.flatten(1)[:, :inputs]
    return values, scale.bfloat16() if grouped else scale[:, 0]


def relative_error(weight: Tensor, values: Tensor, scale: Tensor) -> float:
    """How far the numbers are from the weights that they stand for: the root of the sum of squares,
    of that of the weights.

    Args:
        weight: (out, in) of any float.
        values, scale: as of `PackedLinear`.
    """
    off = of_all = 0.0
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        part, own = weight[rows].float(), scale[rows]
        found = values[rows] * own[:, None] if own.ndim == 1 else numbers(values[rows], own)
        off += float((found - part).square().sum())
        of_all += float(part.square().sum())
    return math.sqrt(off / of_all) if of_all else 0.0


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations as bytes, with `x ≈ step × (bytes - zero)` and 0 kept exactly.

    Args:
        x: (rows, in) fp32. A row with an infinity or a NaN gets the step NaN.

    Returns:
        bytes (rows, in) uint8, step (rows, 1) fp32, zero (rows, 1) fp32
    """
    finite = x.isfinite().all(1, keepdim=True)
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    step = torch.where(finite, high / 255 - low / 255, 0.0)
    usable = step > 1e-30  # 1 / step must not overflow
    inverse = torch.where(usable, 1 / step, 0.0)
    zero = torch.where(usable, (-low * inverse).round(), 0.0)
    numbers = torch.where(usable, (x * inverse).round() + zero, 0.0).clamp(0, 255)
    step = torch.where(usable, step, torch.where(finite, 0.0, torch.nan))
    return numbers.to(torch.uint8), step, zero


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a × b + c in fp32, rounded once, as `fused_number` in kernels.h has it."""
    product = a.double() * b.double()  # exact
    total = product + c.double()
    part = total - product
    error = (product - (total - part)) + (c.double() - part)
    bits = total.view(torch.int64)
    outward = (error > 0) == (total > 0)
    inexact = ((error > 0) | (error < 0)) & (bits & 1 == 0)
    bits = torch.where(inexact, torch.where(outward, bits + 1, bits - 1), bits)
    return bits.view(torch.float64).float()


def quantize_group(x: Tensor) -> tuple[Tensor, Tensor]:
    """A group of each row as whole numbers in [-127, 127], with `x ≈ step × numbers`.

    Args:
        x: (rows, up to 32) fp32. A group with an infinity or a NaN gets the step NaN.

    Returns:
        numbers (rows, up to 32) fp32, step (rows, 1) fp32
    """
    finite = x.isfinite().all(1, keepdim=True)
    step = torch.where(finite, x.abs().amax(1, keepdim=True) / 127, 0.0)
    usable = step > 1e-30  # 1 / step must not overflow
    numbers = torch.where(usable, (x * torch.where(usable, 1 / step, 0.0)).round(), 0.0)
    return numbers, torch.where(usable, step, torch.where(finite, 0.0, torch.nan))


def exact_product(quantized: Tensor, values: Tensor) -> Tensor:
    """(rows, in) uint8 times (out, in) int8, transposed -> (rows, out) int32, exact"""
    if int_mm_is_exact():
        centred = (quantized.int() - 128).to(torch.int8)
        return torch._int_mm(centred, values.T) + 128 * values.sum(1, dtype=torch.int32)
    sums = torch.zeros(len(quantized), len(values), dtype=torch.int32)
    for start in range(0, values.shape[1], _EXACT_INPUTS):
        part = slice(start, start + _EXACT_INPUTS)
        sums += F.linear(quantized[:, part].float(), values[:, part].float()).int()
    return sums


@functools.cache
def int_mm_is_exact() -> bool:
    """Whether `torch._int_mm` is exact here; on processors without VNNI it is not, in silence."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor([-128, -127, 127], dtype=torch.int8)
    for rows in (1, 16):
        for a, b in (
            (torch.full((rows, 768), 127), torch.full((64, 768), 127)),
            (torch.full((rows, 768), -128), torch.full((64, 768), -127)),
            (
                ends[torch.randint(3, (rows, 768), generator=generator)],
                ends[torch.randint(1, 3, (64, 768), generator=generator)],
            ),
        ):
            product = torch._int_mm(a.to(torch.int8), b.to(torch.int8).T)
            if not torch.equal(product.long(), a.long() @ b.long().T):
                return False
    return True


class QuantizedProjection(nn.Module):
    """A `Projection` with 8-bit weights."""

    tile: int | None = None  # its rows are independent as they are

    bias: Tensor | None

    def __init__(self, path: str, layer: Layer, bias: Tensor | None) -> None:
        super().__init__()
        self.path = path
        self.layer = layer
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor, adapters: Adapts | None = None) -> Tensor:
        y = self.layer(x)
        return y if adapters is None else adapters.adapt(self, x, y)

    def wide_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        raise UsageError("a network in 8 bits for serving cannot be trained on")


class FastGELU(nn.Module):
    """GELU of a projection's output, in place: torch's takes 4 times as long as this."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel.gelu(x)


class QuantizedEmbedding(nn.Module):
    """A `TokenEmbedding` or an `OutputHead` with 8-bit weights."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer.rows(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.layer(hidden)


@torch.no_grad()
def quantize(model: Transformer, kernel: Kernel | None = None, *, bits: int = 8) -> None:
    """Give `model` 8-bit weights, in place; what remains becomes fp32. For inference only.

    What is held as whole numbers and scales already keeps them, be they of 8 bits or of 4. What is
    held in bf16 is quantized from bf16: the same result as from fp32 where the checkpoint stores
    bf16, and the peak of memory is lower.

    Args:
        kernel: computes the products; by default `library.load()`, or torch where there is none.
        bits: 8, or 4: then the matrices of all projections come to 4 bits, those held in 8 as well.

    Raises:
        UsageError: the model is not on a CPU.
    """
    if model.device.type != "cpu":
        raise UsageError(f"--quantize int{bits} is for the CPU; the model is on {model.device}")
    kernel = kernel or library.load()
    grouped = model.config.mlp == "swiglu"
    model.weight_error = 0.0
    fused = kernel is not None and fits(model.config)

    def layer(
        owner: nn.Module, bias: Tensor | None = None, *, bits: int = 8, paired: bool = False
    ) -> Layer:
        weight, scale = owner.weight, getattr(owner, "scale", None)
        assert isinstance(weight, Tensor)
        stored: Tensor | None = weight  # what is rounded here
        if bits == 4 and weight.dtype != torch.uint8:
            stored = weight if scale is None else numbers(weight, scale)
            values, scale = four_bits.quantize_weight(stored)
        elif scale is None:
            values, scale = quantize_weight(weight, grouped=grouped)
        else:
            values, stored = unpacked(weight), None
        if stored is not None:
            error = relative_error(stored, values, scale)
            model.weight_error = max(model.weight_error, error)
        if kernel is None:
            return TorchLinear(values, scale, bias)
        return PackedLinear(kernel, values, scale, bias, paired=paired)

    # Names first: no list may keep the replaced weights alive.
    for name in [n for n, module in model.named_modules() if isinstance(module, Projection)]:
        old = model.get_submodule(name)
        assert isinstance(old, Projection)
        new = layer(old, old.bias, bits=bits, paired=fused and name.endswith("gate_up"))
        model.set_submodule(name, QuantizedProjection(old.path, new, old.bias))
        return_freed_memory()  # now and then: it would add up to more than the network
    if kernel:
        for name in [n for n, module in model.named_modules() if isinstance(module, nn.GELU)]:
            model.set_submodule(name, FastGELU(kernel))
    if model.head is not None:
        model.set_submodule("head", QuantizedEmbedding(layer(model.head)))
    model.set_submodule("embedding", QuantizedEmbedding(layer(model.embedding)))
    model.float().requires_grad_(False)
    if kernel and fused:
        blocks = QuantizedBlocks(kernel, list(model.blocks), model.config)
        model.blocks = nn.ModuleList([blocks])
    model.quantized = bits
    return_freed_memory()


def weights_of(model: Transformer) -> str:
    """In what the weights of `model` are: "int8", "int4, int8" where a file has some of them in 4
    bits, or what it computes in where it is not quantized."""
    kinds = (QuantizedProjection, QuantizedEmbedding)
    bits = {module.layer.bits for module in model.modules() if isinstance(module, kinds)}
    return ", ".join(f"int{each}" for each in sorted(bits)) or dtype_name(model.dtype)


def return_freed_memory() -> None:
    """Hand what the old weights and the conversion took back to the kernel.

    glibc keeps freed blocks for later: 150 MB would stay resident beside GPT-2 124M.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
