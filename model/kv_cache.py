"""Keys and values of running sequences, so that a token is computed once.

The memory is taken once, at the start, as blocks of 16 tokens: its size is known before the first
request, and a step allocates nothing for it. A sequence has a list of blocks; several sequences
that begin alike may share the first of them. Which block belongs to whom is the business of
`model.engine.blocks`; the network sees a `CacheStep`, which says for one forward pass where the
tokens of each sequence are and where the new ones go.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.architecture import Architecture
from model.cpu import library
from model.cpu.attention import TOKENS, PagedCache, Plan

BLOCK_TOKENS = TOKENS


def blocks_for(tokens: int) -> int:
    """The number of blocks that hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


class KVCache:
    """Memory for `blocks` blocks of tokens.

    `keys` and `values` are (layer, block, kv_head, BLOCK_TOKENS, head_dim). On a CPU they are the
    business of the attention kernel (`paged`), where it was compiled and the shape suits it; the
    layout of a block of keys is then its own.
    """

    def __init__(
        self,
        config: Architecture,
        blocks: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layer, blocks, config.n_kv_head, BLOCK_TOKENS, config.head_dim)
        # Not zeroed: pages that no sequence has used yet then cost no memory.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.blocks = blocks
        kernel = library.load() if PagedCache.fits(self.keys) else None
        group = config.n_head // config.n_kv_head
        self.paged = PagedCache(kernel, self.keys, self.values, group) if kernel else None

    @staticmethod
    def bytes_per_block(config: Architecture, dtype: torch.dtype) -> int:
        """Memory of one block in all layers, in bytes."""
        return 2 * config.n_layer * BLOCK_TOKENS * config.kv_width * dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class Span(Protocol):
    """The new tokens of one sequence in a step; the scheduler's chunks are such spans."""

    @property
    def blocks(self) -> Sequence[int]:
        """Where the sequence's tokens are, in order, with room for the new ones."""

    @property
    def start(self) -> int:
        """How many of its tokens are in the cache already."""

    @property
    def length(self) -> int:
        """How many follow now: 1 in decode, more in prefill."""


class CacheStep:
    """Attention of one forward pass over a flat batch of spans.

    The tokens of all spans stand one after another in one dimension, so that no padding is ever
    computed, and prefill and decode share a step. With the kernel, a token gets the same bits
    however its sequence is cut into steps, and whatever else is in them; without, nearly the same.
    """

    def __init__(self, cache: KVCache, spans: Sequence[Span]) -> None:
        for span in spans:
            assert span.start + span.length <= len(span.blocks) * BLOCK_TOKENS, (
                "a span overruns its blocks"
            )
        self.cache = cache
        self.plan: Plan | None = None
        """The same for the kernel."""
        if cache.paged:
            self.plan = Plan(cache.paged, [(s.blocks, s.start, s.length) for s in spans])
            return
        device = cache.keys.device
        places = [
            (span.blocks[at // BLOCK_TOKENS], at % BLOCK_TOKENS)
            for span in spans
            for at in range(span.start, span.start + span.length)
        ]
        # Of each new token: its block, and its place there.
        self._block, self._place = torch.tensor(places, device=device).view(-1, 2).unbind(1)
        self._spans = [
            (
                torch.tensor(span.blocks[: blocks_for(end)], device=device),
                span.length,
                end,
                self._mask(span, device),
            )
            for span in spans
            for end in [span.start + span.length]
        ]

    @staticmethod
    def _mask(span: Span, device: torch.device) -> Tensor | None:
        """What the tokens of a span see: all that is cached and, among their own, the earlier."""
        if span.length == 1:
            return None
        shape = (span.length, span.start + span.length)
        return torch.ones(shape, dtype=torch.bool, device=device).tril_(span.start)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store `key` and `value`, and attend over all that each sequence has so far.

        Args:
            layer: index of the block of the network.
            query: (tokens, head, head_dim)
            key, value: (tokens, kv_head, head_dim)

        Returns:
            (tokens, head, head_dim)
        """
        if self.plan:
            return self.plan.attend(layer, query, key, value)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self._block, :, self._place] = key.to(keys.dtype)
        values[self._block, :, self._place] = value.to(values.dtype)
        out = torch.empty_like(query)
        first = 0
        for blocks, length, end, mask in self._spans:
            rows = slice(first, first + length)
            out[rows] = _attended(
                query[rows].to(keys.dtype),
                _in_order(keys, blocks, end),
                _in_order(values, blocks, end),
                mask,
            )
            first = rows.stop
        return out


def _attended(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one sequence: (length, head, head_dim), (1, kv_head, end, head_dim) twice.

    The query heads that share keys are rows of one product, so that no key is copied.
    """
    length, heads, dim = query.shape
    kv_heads = keys.shape[1]
    # (1, kv_head, length × group, head_dim)
    rows = query.view(length, kv_heads, -1, dim).transpose(0, 1).reshape(1, kv_heads, -1, dim)
    if mask is not None and kv_heads < heads:
        mask = mask.repeat_interleave(heads // kv_heads, dim=0)
    attended = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
    return attended.view(kv_heads, length, -1, dim).transpose(0, 1).flatten(1, 2)


def _in_order(cells: Tensor, blocks: Tensor, end: int) -> Tensor:
    """The first `end` tokens of a sequence: (block, head, place, dim) -> (1, head, end, dim)"""
    return cells[blocks].transpose(0, 1).flatten(1, 2)[None, :, :end]
