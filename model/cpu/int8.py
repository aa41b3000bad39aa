"""The compiled kernel, and linear layers with 8-bit weights in it.

    kernel = load()                      # None where there was no compiler
    layer = kernel.pack(values, scale, bias)
    y = layer(x)

`model.cpu.quantize` says what the numbers mean.
"""

import ctypes
import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

PATHS = ("portable", "avx2", "avx512-vnni")
"""The instruction sets, slowest first; all give the same bits."""
_LIBRARY = Path(__file__).with_name("kernels") / "libkernels.so"
_VERSION = 3
CHANNELS = 64
"""Output channels of a block of weights."""
_log = logging.getLogger(__name__)


class _Weights(ctypes.Structure):
    """`Weights` in kernels.h."""

    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Kernel:
    """The compiled library, and which of its paths is used."""

    library: ctypes.CDLL
    path: int
    """Index in `PATHS`."""

    def pack(self, values: Tensor, scale: Tensor, bias: Tensor | None) -> "PackedLinear":
        """A layer y = x Wᵀ + b with W = values × scale.

        Args:
            values: (out_features, in_features) int8, at least -127.
            scale: (out_features,) fp32.
            bias: (out_features,) fp32.
        """
        return PackedLinear(self, values, scale, bias)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU in its tanh form, within 1e-6; in place where `x` is contiguous fp32."""
        assert x.is_cpu
        x = x.float().contiguous()
        self.library.int8_gelu(x.data_ptr(), x.numel(), self.path, torch.get_num_threads())
        return x


class PackedLinear:
    """One layer in the layout of kernels.h. The C side holds pointers into its tensors."""

    def __init__(self, kernel: Kernel, values: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.kernel = kernel
        self.out_features, self.in_features = values.shape
        # The largest sum of products must fit 32 bits.
        assert self.in_features <= 65536, "in_features is at most 65,536"
        channels = -self.out_features % CHANNELS  # what is missing to whole blocks
        padded = F.pad(values, (0, -self.in_features % 4, 0, channels))
        # (blocks, 64, groups) of 4 bytes each -> (blocks, groups, 64) of 4 bytes each
        groups = padded.shape[1] // 4
        fours = padded.contiguous().view(torch.int32).view(-1, CHANNELS, groups)
        self.weight = fours.transpose(1, 2).contiguous()
        self.scale = F.pad(scale.float(), (0, channels)).contiguous()
        self.sums = torch.zeros(self.out_features + channels, dtype=torch.int32)
        for start in range(0, self.out_features, 4096):  # sums make an int32 copy of their input
            rows = slice(start, min(start + 4096, self.out_features))
            self.sums[rows] = values[rows].sum(1, dtype=torch.int32)
        zeros = torch.zeros(self.out_features)
        self.bias = F.pad(zeros if bias is None else bias.float(), (0, channels)).contiguous()
        self._weights = _Weights(
            self.weight.data_ptr(),
            self.scale.data_ptr(),
            self.sums.data_ptr(),
            self.bias.data_ptr(),
            self.in_features,
            self.out_features,
        )
        self.pointer = ctypes.addressof(self._weights)

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features), fp32"""
        assert x.is_cpu
        assert x.shape[-1] == self.in_features
        x = x.float().contiguous()
        y = torch.empty(*x.shape[:-1], self.out_features)
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
        return y

    def rows(self, channels: Tensor) -> Tensor:
        """The weights of some output channels: (…,) int64 -> (…, in_features) fp32

        Raises:
            IndexError: there is no such channel.
        """
        assert channels.is_cpu
        assert channels.dtype == torch.int64
        channels = channels.contiguous()
        out = torch.empty(*channels.shape, self.in_features)
        if self.kernel.library.int8_rows(
            self.pointer, channels.data_ptr(), channels.numel(), out.data_ptr()
        ):
            raise IndexError(f"channels are from 0 to {self.out_features - 1}")
        return out


@functools.cache
def load(path: str | None = None) -> Kernel | None:
    """The kernel with the fastest path of this processor, or with the path named.

    Returns:
        None if it was not compiled when the package was installed.

    Raises:
        ValueError: this processor lacks the path named.
    """
    if not _LIBRARY.is_file():
        return None
    try:
        library = ctypes.CDLL(str(_LIBRARY))
    except OSError as error:
        _log.warning("the int8 kernel cannot be loaded: %s", error)
        return None
    if library.int8_version() != _VERSION:
        _log.warning("the int8 kernel is of another version; install the package again")
        return None
    library.int8_linear.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
    ]
    library.int8_rows.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    library.int8_gelu.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_int,
    ]
    library.int8_gelu.restype = None
    library.network.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_int,
    ]
    library.attention.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
    ]
    able = PATHS[: library.int8_paths()]
    if path is not None and path not in able:
        raise ValueError(f"path {path!r} is none of {', '.join(able)}")
    return Kernel(library, able.index(path) if path else len(able) - 1)
