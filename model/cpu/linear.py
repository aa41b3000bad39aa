"""Linear layers with 8- or 4-bit weights in the compiled kernels.

    layer = PackedLinear(kernel, values, scale, bias)
    y = layer(x)

`model.cpu.quantize` says what the numbers mean.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu.library import Kernel, require

CHANNELS = 64
"""Output channels of a block of weights."""
GROUP = 32
"""Inputs that have a scale of their own in a grouped layer: those of a channel, and of a row."""
HALF = 16
"""Inputs whose 4-bit weights are in the low halves of their bytes, or in the high ones."""
SUPER = 8
"""Groups whose scales have a scale in a nested layer."""
MOST_INPUTS = 65536
"""The largest sum of products must fit 32 bits."""
_KINDS = {
    (torch.int8, torch.float32, 1): 0,
    (torch.int8, torch.bfloat16, 2): 1,
    (torch.uint8, torch.float16, 3): 2,
    (torch.int8, torch.float16, 2): 3,
    (torch.uint8, torch.uint8, 3): 4,
}
"""`Kind` in kernels.h, by the types of values and scale and the latter's dimensions."""


class _Weights(ctypes.Structure):
    """`Weights` in kernels.h."""

    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    ]


class PackedLinear:
    """y = x Wᵀ + b with W = values × scale, in the layout of kernels.h.

    The C side holds pointers into its tensors.

    Args:
        values: (out_features, in_features) int8, at least -127; or uint8, of 4 bits: at most 15.
        scale: (out_features,) fp32: the layer is plain; or (out_features, groups of 32 inputs)
            bf16 or fp16: it is grouped, and each 32 inputs of a row have a scale of their own,
            too. Of 4 bits: (out_features, groups, 2) fp16, a scale and what is then added to the
            product; or nested, (out_features, supers of 8 groups, 20) uint8: see `nested`.
        bias: (out_features,) fp32.
        paired: whether the first half of the channels and the second, as gate and up of a SwiGLU,
            are packed side by side, so that a block of channels has what becomes a product.

    Raises:
        ValueError: the shapes or types do not fit.
    """

    def __init__(
        self,
        kernel: Kernel,
        values: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        paired: bool = False,
    ) -> None:
        require(values.ndim == 2, f"values are {tuple(values.shape)}; they must be a matrix")
        kind = _KINDS.get((values.dtype, scale.dtype, scale.ndim), -1)
        require(kind >= 0, f"{values.dtype} with a scale of {scale.dtype} is no kind of layer")
        self.kernel = kernel
        self.out_features, self.in_features = values.shape
        self.paired = paired
        self.bits = 4 if scale.ndim > 2 else 8
        require(0 < self.in_features <= MOST_INPUTS, f"in_features is at most {MOST_INPUTS}")
        groups = (-(-self.in_features // GROUP), 2)[: scale.ndim - 1]
        each = (-(-self.in_features // (SUPER * GROUP)), 20) if kind == 4 else groups
        require(scale.shape == (len(values), *each), f"scale is {tuple(scale.shape)}")
        require(bias is None or bias.shape == (len(values),), "each channel needs a bias")
        missing = -self.in_features % (GROUP if groups else 4)
        values = self._whole_blocks(F.pad(values, (0, missing)) if missing else values)
        scale = self._whole_blocks(scale)
        bias = torch.zeros(self.out_features) if bias is None else bias.float()
        self.bias = self._whole_blocks(bias)
        self.scale: Tensor | None = None
        self.sums: Tensor | None = None
        if groups:
            stored = (
                values.view(torch.uint8) ^ 128 if values.dtype == torch.int8 else nibbles(values)
            )
            pack = _with_nested if kind == 4 else _with_scales
            self.weight = pack(_in_fours(stored), scale)
        else:
            self.weight, self.scale, self.sums = _in_fours(values), scale, _row_sums(values)
        self._weights = _Weights(
            self.weight.data_ptr(),
            None if self.scale is None else self.scale.data_ptr(),
            None if self.sums is None else self.sums.data_ptr(),
            self.bias.data_ptr(),
            self.in_features,
            len(values) if paired else self.out_features,
            kind,
        )
        self.pointer = ctypes.addressof(self._weights)

    def _whole_blocks(self, channels: Tensor) -> Tensor:
        return in_pairs(channels) if self.paired else whole_blocks(channels)

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features), fp32"""
        if not x.is_cpu or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x is {tuple(x.shape)} on {x.device}; the layer needs {self.in_features} features "
                "on the CPU"
            )
        x = x.float().contiguous()
        y = torch.empty(*x.shape[:-1], self._weights.out_features)
        failed = self.kernel.library.int8_linear(
            self.pointer,
            x.data_ptr(),
            x.numel() // self.in_features,
            y.data_ptr(),
            self.kernel.path,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for the quantized rows of a linear layer")
        if self.paired:  # back to all of gate, then all of up
            blocks = y.shape[-1] // CHANNELS
            halves = y.view(*x.shape[:-1], blocks, 2, CHANNELS // 2).transpose(-3, -2).flatten(-2)
            y = halves[..., : self.out_features // 2].flatten(-2)
        return y

    def rows(self, channels: Tensor) -> Tensor:
        """The weights of some output channels: (…,) int64 -> (…, in_features) fp32

        Raises:
            IndexError: there is no such channel.
        """
        if not channels.is_cpu or channels.dtype != torch.int64:
            raise ValueError(
                f"channels are {channels.dtype} on {channels.device}, not int64 on CPU"
            )
        require(not self.paired, "the channels of a paired layer are in another order")
        channels = channels.contiguous()
        out = torch.empty(*channels.shape, self.in_features)
        if self.kernel.library.int8_rows(
            self.pointer, channels.data_ptr(), channels.numel(), out.data_ptr()
        ):
            raise IndexError(f"channels are from 0 to {self.out_features - 1}")
        return out


def whole_blocks(channels: Tensor) -> Tensor:
    """(channels, …) with zeros for what is missing to whole blocks of channels."""
    missing = -len(channels) % CHANNELS
    if missing:
        channels = F.pad(channels, (0, 0) * (channels.ndim - 1) + (0, missing))
    return channels.contiguous()


def in_pairs(channels: Tensor) -> Tensor:
    """(2 n, …) as blocks that have half of their channels from the first n, half from the others.

    Zeros are added to whole blocks.
    """
    n, half, inputs = len(channels) // 2, CHANNELS // 2, channels.shape[1:]
    both = channels.reshape(2, n, *inputs)
    both = F.pad(both, (0, 0) * len(inputs) + (0, -n % half))
    return both.view(2, -1, half, *inputs).transpose(0, 1).reshape(-1, *inputs)


def _in_fours(values: Tensor) -> Tensor:
    """(channels, inputs) of bytes -> (blocks, fours, CHANNELS) of four bytes each"""
    fours = values.contiguous().view(torch.int32)
    return fours.view(-1, CHANNELS, fours.shape[1]).transpose(1, 2).contiguous()


def _with_scales(fours: Tensor, scale: Tensor) -> Tensor:
    """Behind the fours of each group, its scales, and then its minima where there are such.

    Args:
        fours: (blocks, fours, CHANNELS) int32, each four bytes.
        scale: (channels, groups, or groups and 2) of 16 bits.

    Returns:
        (blocks, groups, bytes) uint8
    """
    groups = scale.shape[1]
    weights = fours.view(torch.uint8).view(len(fours), groups, -1)
    of_blocks = scale.view(len(fours), CHANNELS, groups, -1).permute(0, 2, 3, 1).flatten(2)
    return torch.cat([weights, of_blocks.contiguous().view(torch.uint8)], dim=2).contiguous()


def _with_nested(fours: Tensor, scale: Tensor) -> Tensor:
    """Behind the fours of each group its bytes, and behind all groups the numbers in fp16.

    Args:
        fours: (blocks, fours, CHANNELS) int32, each four bytes.
        scale: (channels, supers, 20), as `nested` gives it.

    Returns:
        (blocks, bytes) uint8
    """
    blocks, supers, groups = len(fours), scale.shape[1], fours.shape[1] * 4 // HALF
    weights = fours.view(torch.uint8).view(blocks, groups, -1)
    of_blocks = scale.view(blocks, CHANNELS, supers, -1).permute(0, 2, 3, 1)
    outer = of_blocks[:, :, :4].reshape(blocks, supers, 2, 2, CHANNELS)
    outer = outer.transpose(3, 4)  # the two bytes of a number side by side
    inner = of_blocks[:, :, 4:].reshape(blocks, supers, 2, SUPER, CHANNELS)
    inner = inner.transpose(2, 3).reshape(blocks, supers * SUPER, 2 * CHANNELS)
    both = torch.cat([weights, inner[:, :groups]], dim=2)
    return torch.cat([both.flatten(1), outer.flatten(1)], dim=1).contiguous()


def nested(outer: Tensor, inner: Tensor) -> Tensor:
    """The scales of a nested layer as one tensor: a group's scale and minimum are products, exact
    in fp32.

    Args:
        outer: (channels, supers, 2) fp16, of scales and of minima.
        inner: (channels, supers, 2, 8) uint8, of the groups.

    Returns:
        (channels, supers, 20) uint8
    """
    return torch.cat([outer.contiguous().view(torch.uint8), inner.flatten(2)], dim=2)


def group_scales(scale: Tensor) -> Tensor:
    """Nested scales multiplied out, (channels, groups, 2) fp32; others are what they are."""
    if scale.dtype != torch.uint8:
        return scale
    outer = scale[..., :4].contiguous().view(torch.float16).float()
    inner = scale[..., 4:].reshape(*scale.shape[:2], 2, SUPER)
    return (outer[..., None] * inner).transpose(2, 3).flatten(1, 2)


def nibbles(values: Tensor) -> Tensor:
    """Two 4-bit numbers a byte, as GGUF has them: byte j of a group has input j in its low half,
    and input 16 + j in its high one.

    Args:
        values: (…, inputs) uint8, whole groups of numbers up to 15.

    Returns:
        (…, inputs / 2) uint8

    Raises:
        ValueError: a number is too large.
    """
    require(not values.numel() or int(values.max()) < 16, "a number of 4 bits is at most 15")
    low, high = values.reshape(*values.shape[:-1], -1, 2, HALF).unbind(-2)
    return (low | high << 4).flatten(-2)


def unpacked(values: Tensor) -> Tensor:
    """The way back: (…, inputs / 2) uint8 -> (…, inputs); what is no uint8 is whole already."""
    if values.dtype != torch.uint8:
        return values
    halves = values.view(*values.shape[:-1], -1, HALF)
    return torch.stack([halves & 15, halves >> 4], dim=-2).flatten(-3)


def _row_sums(values: Tensor) -> Tensor:
    """(channels, inputs) int8 -> (channels,) int32"""
    # In parts, for a sum makes an int32 copy of its input.
    starts = range(0, len(values), 4096)
    return torch.cat([values[i : i + 4096].sum(1, dtype=torch.int32) for i in starts])
