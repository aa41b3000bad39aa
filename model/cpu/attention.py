"""Attention over a cache of keys and values in blocks, on a CPU.

cache = PagedCache(kernel, keys, values)
plan = Plan(cache, [(blocks, cached, new), ...])
out = plan.attend(layer, query, key, value)
"""

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from model.cpu.library import Kernel, require

TOKENS = 16
"""Tokens of a block."""


class _Cache(ctypes.Structure):
    """`Cache` in kernels.h."""

    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("layer", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("bf16", ctypes.c_int64),
    ]


class PagedCache:
    """The memory of keys and values, as the kernel sees it.

    Args:
        keys, values: (layer, block, head, TOKENS, head_dim) fp32 or bf16; each layer contiguous.
            The keys of a head are in the kernel's own layout, (head_dim, TOKENS).
        group: query heads that share the keys and values of a head.
    """

    def __init__(self, kernel: Kernel, keys: Tensor, values: Tensor, group: int = 1) -> None:
        require(self.fits(keys), "the kernel cannot work with such a cache")
        require(keys[0].is_contiguous(), "each layer of a cache must be contiguous")
        same = (keys.shape, keys.stride()) == (values.shape, values.stride())
        require(same and keys.dtype == values.dtype, "keys and values must be alike")
        require(group > 0, f"group is {group}; it must be at least 1")
        self.kernel = kernel
        self.group = group
        self.layers, self.blocks, self.heads, _, self.head_dim = keys.shape
        self._held = (keys, values)  # the structure below points into them
        self._cache = _Cache(
            keys.data_ptr(),
            values.data_ptr(),
            keys.stride(0),
            self.heads,
            self.head_dim,
            group,
            keys.dtype == torch.bfloat16,
        )
        self.pointer = ctypes.addressof(self._cache)

    @staticmethod
    def fits(keys: Tensor) -> bool:
        """Whether the kernel can work with such a cache."""
        tokens, dim = keys.shape[-2:]
        types = (torch.float32, torch.bfloat16)
        return keys.is_cpu and keys.dtype in types and tokens == TOKENS and dim % 16 == 0


class Plan:
    """Where the tokens of one step are, for all of its layers.

    Args:
        cache: holds what earlier steps computed.
        segments: of each sequence, in the order of its rows in the flat batch: the blocks that its
            tokens are in, from the first on and with room for the new ones; how many tokens are
            cached; how many are new.

    Raises:
        ValueError: a segment overruns its blocks, or there is no such block.
    """

    def __init__(
        self, cache: PagedCache, segments: Sequence[tuple[Sequence[int], int, int]]
    ) -> None:
        self.cache = cache
        blocks, table = array("i"), array("q")
        for ids, start, length in segments:
            needed = -(-(start + length) // TOKENS)
            if start < 0 or length < 0 or len(ids) < needed:
                raise ValueError(
                    f"a segment of {length} tokens after {start} overruns its {len(ids)} blocks"
                )
            blocks.extend(ids[:needed])
        if blocks and not 0 <= min(blocks) <= max(blocks) < cache.blocks:
            raise ValueError(f"blocks are from 0 to {cache.blocks - 1}; a segment has another one")
        address, self.tokens = blocks.buffer_info()[0], 0
        for _, start, length in segments:
            table.extend((address, start, length, self.tokens))
            address += blocks.itemsize * -(-(start + length) // TOKENS)
            self.tokens += length
        self._held = (blocks, table)
        self.segments = table.buffer_info()[0]
        """Address of the structures `Segment` in network.c."""
        self.count = len(segments)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store `key` and `value`, and attend.

        Args:
            query: (tokens, head × group, head_dim)
            key, value: (tokens, head, head_dim); all three may be parts of one tensor.

        Returns:
            (tokens, head × group, head_dim), in the type of `query`
        """
        cache = self.cache
        shape = (self.tokens, cache.heads, cache.head_dim)
        queries = (self.tokens, cache.heads * cache.group, cache.head_dim)
        if not 0 <= layer < cache.layers:
            raise ValueError(f"layer is {layer}; the cache has {cache.layers}")
        if query.shape != queries or not key.shape == value.shape == shape:
            found = [tuple(part.shape) for part in (query, key, value)]
            raise ValueError(f"q, k and v are {found}; expected {queries} and {shape} twice")
        require(query.is_cpu and key.is_cpu and value.is_cpu, "the kernels are for the CPU")
        dtype = query.dtype
        query, key, value = query.float(), key.float(), value.float()
        stride = query.stride()
        if stride[1:] != (cache.head_dim, 1) or key.stride() != stride or value.stride() != stride:
            heads = [queries[1], cache.heads, cache.heads]
            query, key, value = torch.cat([query, key, value], dim=1).split(heads, dim=1)  # type: ignore[no-untyped-call]
        out = torch.empty(queries)
        failed = cache.kernel.library.attention(
            cache.pointer,
            layer,
            self.segments,
            self.count,
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            query.stride(0),
            out.data_ptr(),
            cache.kernel.path,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for the scores of attention")
        return out.to(dtype)
