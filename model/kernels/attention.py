"""Calls attention.c: attention over a cache of keys and values in fp32, on a CPU."""

import ctypes

import torch
from torch import Tensor

from model.kernels.int8 import Kernel

KEYS = 16
"""Tokens in a block of keys; the time of a cache is a multiple of it, and `head_dim`, too."""


class _Cache(ctypes.Structure):
    """`Cache` in attention.c."""

    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("slot_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("dim", ctypes.c_int64),
    ]


class Attention:
    """Attention over one cache.

    Args:
        keys, values: (layer, slot, head, time, head_dim) fp32, contiguous. The layout of the keys
            of a head is the kernel's own: blocks of 16 tokens, (head_dim, 16) each.
    """

    def __init__(self, kernel: Kernel, keys: Tensor, values: Tensor) -> None:
        self.kernel = kernel
        self._held = (keys, values)  # the structures below point into them
        _, _, heads, _time, dim = keys.shape
        self._layers = [
            _Cache(k.data_ptr(), v.data_ptr(), k.stride(0), k.stride(1), heads, dim)
            for k, v in zip(keys, values, strict=True)
        ]

    @staticmethod
    def fits(keys: Tensor) -> bool:
        """Whether the kernel can work with such a cache."""
        time, dim = keys.shape[-2:]
        return keys.is_cpu and keys.dtype == torch.float32 and time % KEYS == dim % KEYS == 0

    def __call__(self, layer: int, segments: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store `k` and `v`, and attend.

        Args:
            segments: (segments, 4) int64: slot, tokens that are cached, new tokens, and where
                these stand in the step.
            q, k, v: (tokens, head, head_dim) fp32; may be parts of one tensor.

        Returns:
            (tokens, head, head_dim)
        """
        tokens, heads, dim = q.shape
        stride = q.stride()
        assert q.dtype == k.dtype == v.dtype == torch.float32
        if stride[1:] != (dim, 1) or k.stride() != stride or v.stride() != stride:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty(tokens, heads, dim)
        failed = self.kernel.library.attention(
            ctypes.byref(self._layers[layer]),
            segments.data_ptr(),
            len(segments),
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            q.stride(0),
            out.data_ptr(),
            self.kernel.path,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for the scores of attention")
        return out
