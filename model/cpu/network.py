"""All blocks of a network with 8-bit weights, in one call of the kernel.

network = Network(kernel, blocks)
x = network(x, plan, [(adapter, slice(0, 3))])
"""

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cpu.attention import Plan
from model.cpu.int8 import CHANNELS, Kernel, PackedLinear

_RANKS = 16  # the rank of an adapter is padded to a multiple


class _Norm(ctypes.Structure):
    """`Norm` in network.c."""

    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    ]


class _Block(ctypes.Structure):
    """`Block` in network.c."""

    _fields_ = [
        ("attention_norm", _Norm),
        ("mlp_norm", _Norm),
        ("qkv", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
    ]


class _Pair(ctypes.Structure):
    """`Pair` in kernels.h."""

    _fields_ = [
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
    ]


class _Adapters(ctypes.Structure):
    """`Adapters` in network.c."""

    _fields_ = [
        ("of_row", ctypes.c_void_p),
        ("pairs", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
    ]


class PackedAdapter:
    """An adapter in the layout of kernels.h.

    Args:
        pairs: for the four linear layers of every block, in their order: A (rank, in_features) and
            B (out_features, rank), the latter times the adapter's scale; or None.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        self.rank = 0
        """The largest, padded."""
        self._tensors: list[Tensor] = []
        self._pairs = (_Pair * len(pairs))()
        for place, pair in enumerate(pairs):
            if pair is None:
                continue
            a, b = (matrix.detach().float() for matrix in pair)
            rank = len(a)
            a = F.pad(a, (0, 0, 0, -rank % _RANKS)).T.contiguous()
            b = F.pad(b, (0, 0, 0, -len(b) % CHANNELS))
            b = b.view(-1, CHANNELS, rank).transpose(1, 2).contiguous()
            self._tensors += [a, b]
            self._pairs[place] = _Pair(a.data_ptr(), b.data_ptr(), rank)
            self.rank = max(self.rank, a.shape[1])
        self.pointer = ctypes.addressof(self._pairs)


@dataclass(frozen=True)
class Block:
    """The parts of one block."""

    attention_norm: nn.LayerNorm
    qkv: PackedLinear
    out: PackedLinear
    mlp_norm: nn.LayerNorm
    up: PackedLinear
    down: PackedLinear


class Network:
    """The blocks of a network. Holds pointers into their tensors, which must stay where they are.

    Args:
        blocks: their widths are (n, 3 n), (n, n), (n, 4 n) and (4 n, n), n a multiple of 16.
    """

    def __init__(self, kernel: Kernel, blocks: Sequence[Block]) -> None:
        self.kernel = kernel
        self.width = blocks[0].qkv.in_features
        assert self.width % 16 == 0
        self._held = tuple(blocks)
        self._blocks = (_Block * len(blocks))(
            *(
                _Block(
                    _norm(block.attention_norm),
                    _norm(block.mlp_norm),
                    block.qkv.pointer,
                    block.out.pointer,
                    block.up.pointer,
                    block.down.pointer,
                )
                for block in blocks
            )
        )

    def __call__(
        self, x: Tensor, plan: Plan, adapters: Sequence[tuple[PackedAdapter, slice]] = ()
    ) -> Tensor:
        """Run the blocks, storing keys and values in the cache of `plan`.

        Args:
            x: (tokens, n), the rows in the order of `plan`.
            adapters: each with the run of rows that gets it.

        Returns:
            (tokens, n) fp32
        """
        cache = plan.cache
        assert x.shape == (plan.tokens, self.width)
        assert (cache.layers, cache.heads * cache.head_dim) == (len(self._blocks), self.width)
        out = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        rows = _Rows(adapters, plan.tokens) if adapters else None
        failed = self.kernel.library.network(
            ctypes.addressof(self._blocks),
            len(self._blocks),
            cache.pointer,
            plan.segments,
            plan.count,
            rows.pointer if rows else None,
            out.data_ptr(),
            plan.tokens,
            self.kernel.path,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for a step of the network")
        return out


class _Rows:
    """Which adapter each row of a step gets."""

    def __init__(self, adapters: Sequence[tuple[PackedAdapter, slice]], tokens: int) -> None:
        of_row = array("i", [-1]) * tokens
        for number, (_, rows) in enumerate(adapters):
            start, stop, _ = rows.indices(tokens)
            of_row[start:stop] = array("i", [number]) * (stop - start)
        pointers = array("q", [adapter.pointer for adapter, _ in adapters])
        self._held = (of_row, pointers, adapters)
        self._adapters = _Adapters(
            of_row.buffer_info()[0],
            pointers.buffer_info()[0],
            max(adapter.rank for adapter, _ in adapters),
        )
        self.pointer = ctypes.addressof(self._adapters)


def _norm(norm: nn.LayerNorm) -> _Norm:
    assert norm.weight.dtype == norm.bias.dtype == torch.float32
    return _Norm(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)
