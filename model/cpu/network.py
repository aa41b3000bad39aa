"""All blocks of a network with 8-bit weights, in one call of the kernel.

network = Network(kernel, blocks, heads, kv_heads, head_dim)
x = network(x, plan, angles, [(adapter, slice(0, 3))])
"""

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import HeadNorm
from model.cpu.attention import Plan
from model.cpu.library import Kernel, require
from model.cpu.linear import CHANNELS, PackedLinear, in_pairs, whole_blocks
from model.positions import Angles

_RANKS = 16  # the rank of an adapter is padded to a multiple


class _Norm(ctypes.Structure):
    """`Norm` in kernels.h."""

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
        ("q_norm", _Norm),
        ("k_norm", _Norm),
        ("qkv", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
    ]


class _Shape(ctypes.Structure):
    """`Shape` in network.c."""

    _fields_ = [
        ("width", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("swiglu", ctypes.c_int64),
    ]


class _Step(ctypes.Structure):
    """`Step` in network.c."""

    _fields_ = [
        ("segments", ctypes.c_void_p),
        ("segment_count", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("adapters", ctypes.c_void_p),
    ]


class _Pair(ctypes.Structure):
    """`Pair` in kernels.h."""

    _fields_ = [
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("gain", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
    ]


class _Adapters(ctypes.Structure):
    """`Adapters` in linear.h."""

    _fields_ = [
        ("of_row", ctypes.c_void_p),
        ("pairs", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Block:
    """The parts of one block."""

    attention_norm: nn.LayerNorm | nn.RMSNorm
    qkv: PackedLinear
    q_norm: HeadNorm | None
    k_norm: HeadNorm | None
    out: PackedLinear
    mlp_norm: nn.LayerNorm | nn.RMSNorm
    up: PackedLinear
    """Paired with SwiGLU."""
    down: PackedLinear

    @property
    def layers(self) -> tuple[PackedLinear, ...]:
        return self.qkv, self.out, self.up, self.down


class PackedAdapter:
    """An adapter in the layout of kernels.h.

    Args:
        layers: the linear layers of all blocks, in order.
        pairs: for each of them A (rank, in_features) and B (out_features, rank), the latter times
            the adapter's scale; or None.
        gains: for each of them what `model.dora.scaled` does after that, as (out_features,) twice,
            y += y × gain + shift; or None. A layer without a pair has no gain.
    """

    def __init__(
        self,
        layers: Sequence[PackedLinear],
        pairs: Sequence[tuple[Tensor, Tensor] | None],
        gains: Sequence[tuple[Tensor, Tensor] | None],
    ) -> None:
        self.layers = len(layers)
        self.rank = 0
        """The largest, padded."""
        self._tensors: list[Tensor] = []
        self._pairs = (_Pair * len(layers))()
        for place, (layer, pair, gain) in enumerate(zip(layers, pairs, gains, strict=True)):
            if pair is None:
                continue
            a, b = (matrix.detach().float().cpu() for matrix in pair)
            rank = len(a)
            require(
                (a.shape, b.shape) == ((rank, layer.in_features), (layer.out_features, rank)),
                f"a pair of {tuple(a.shape)} and {tuple(b.shape)} does not fit its layer",
            )
            a = F.pad(a, (0, 0, 0, -rank % _RANKS)).T.contiguous()
            order = in_pairs if layer.paired else whole_blocks
            b = order(b).view(-1, CHANNELS, rank).transpose(1, 2).contiguous()
            self._tensors += [a, b]
            scaling: list[int | None] = [None, None]
            if gain is not None:
                require(
                    all(part.shape == (layer.out_features,) for part in gain),
                    "each channel needs a gain and a shift",
                )
                parts = [order(part.detach().float().cpu()) for part in gain]
                self._tensors += parts
                scaling = [part.data_ptr() for part in parts]
            self._pairs[place] = _Pair(a.data_ptr(), b.data_ptr(), rank, *scaling)
            self.rank = max(self.rank, a.shape[1])
        self.pointer = ctypes.addressof(self._pairs)


class Network:
    """The blocks of a network. Holds pointers into their tensors, which must stay where they are.

    Args:
        blocks: alike in their shapes.
        heads, kv_heads: of queries, and of keys and values.
        head_dim: a multiple of 16, as is every width.
    """

    def __init__(
        self, kernel: Kernel, blocks: Sequence[Block], heads: int, kv_heads: int, head_dim: int
    ) -> None:
        first = blocks[0]
        self.kernel = kernel
        self.width, self.hidden = first.qkv.in_features, first.down.in_features
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.layers = [layer for block in blocks for layer in block.layers]
        swiglu = first.up.paired
        queries = heads * head_dim
        shapes = [
            (self.width, queries + 2 * kv_heads * head_dim),
            (queries, self.width),
            (self.width, self.hidden * (2 if swiglu else 1)),
            (self.hidden, self.width),
        ]
        for block in blocks:
            found = [(layer.in_features, layer.out_features) for layer in block.layers]
            require(found == shapes, f"a block has layers of {found}; expected {shapes}")
            require(block.up.paired == swiglu, "all blocks must have the same MLP")
        for name, size in (("width", self.width), ("hidden", self.hidden), ("head_dim", head_dim)):
            require(size % 16 == 0, f"{name} is {size}; it must be a multiple of 16")
        self._held = tuple(blocks)
        self._of_cache = (len(blocks), kv_heads, heads, head_dim)
        self._shape = _Shape(self.width, self.hidden, swiglu)
        self._blocks = (_Block * len(blocks))(
            *(
                _Block(
                    _norm(block.attention_norm, self.width),
                    _norm(block.mlp_norm, self.width),
                    _norm(block.q_norm, head_dim),
                    _norm(block.k_norm, head_dim),
                    *(layer.pointer for layer in block.layers),
                )
                for block in blocks
            )
        )

    def __call__(
        self,
        x: Tensor,
        plan: Plan,
        angles: Angles | None = None,
        adapters: Sequence[tuple[PackedAdapter, slice]] = (),
    ) -> Tensor:
        """Run the blocks, storing keys and values in the cache of `plan`.

        Args:
            x: (tokens, n), the rows in the order of `plan`.
            angles: by which queries and keys are rotated, (tokens, head_dim / 2) each.
            adapters: each with the run of rows that gets it.

        Returns:
            (tokens, n) fp32

        Raises:
            ValueError: the shapes do not fit the network.
        """
        cache = plan.cache
        tokens = plan.tokens
        if not x.is_cpu or x.shape != (tokens, self.width):
            raise ValueError(f"x is {tuple(x.shape)} on {x.device}; the plan has {tokens} tokens")
        of_cache = (cache.layers, cache.heads, cache.heads * cache.group, cache.head_dim)
        if of_cache != self._of_cache:
            raise ValueError(f"the cache is of {of_cache}; the network needs {self._of_cache}")
        cosines = sines = None
        if angles is not None:
            cosines, sines = (part.float().contiguous() for part in angles)
            shape = (tokens, self.head_dim // 2)
            if not cosines.shape == sines.shape == shape or not (cosines.is_cpu and sines.is_cpu):
                raise ValueError(f"angles are {tuple(cosines.shape)}; expected {shape}")
        out = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        rows = _Rows(adapters, tokens, len(self.layers)) if adapters else None
        step = _Step(
            plan.segments,
            plan.count,
            tokens,
            None if cosines is None else cosines.data_ptr(),
            None if sines is None else sines.data_ptr(),
            rows.pointer if rows else None,
        )
        failed = self.kernel.library.network(
            ctypes.addressof(self._blocks),
            len(self._blocks),
            ctypes.addressof(self._shape),
            cache.pointer,
            ctypes.addressof(step),
            out.data_ptr(),
            self.kernel.path,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for a step of the network")
        return out


class _Rows:
    """Which adapter each row of a step gets."""

    def __init__(
        self, adapters: Sequence[tuple[PackedAdapter, slice]], tokens: int, layers: int
    ) -> None:
        of_row = array("i", [-1]) * tokens
        for number, (adapter, rows) in enumerate(adapters):
            require(adapter.layers == layers, "an adapter is of another network")
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


def _norm(norm: nn.LayerNorm | nn.RMSNorm | None, size: int) -> _Norm:
    if norm is None:
        return _Norm(None, None, 0.0)
    parts = list(norm.parameters())
    require(
        all(p.dtype == torch.float32 and p.is_cpu and p.shape == (size,) for p in parts),
        f"the weights of a norm must be fp32 and have {size} numbers",
    )
    bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
    return _Norm(norm.weight.data_ptr(), None if bias is None else bias.data_ptr(), norm.eps or 0.0)
