"""Keys and values of running sequences, so that a token is computed once.

The memory is taken once, at the start, as blocks of 16 tokens: its size is known before the first
request, and a step allocates nothing for it. A sequence has a list of blocks; several sequences
that begin alike may share the first of them. Which block belongs to whom is the business of
`model.engine.blocks`; the network sees a `CacheStep`, which says for one forward pass where the
tokens of each sequence are and where the new ones go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import GPTConfig
from model.kernels import int8
from model.kernels.attention import TOKENS, PagedCache, Plan

BLOCK_TOKENS = TOKENS


def blocks_for(tokens: int) -> int:
    """The number of blocks that hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


class KVCache:
    """Memory for `blocks` blocks of tokens.

    `keys` and `values` are (layer, block, head, BLOCK_TOKENS, head_dim). On a CPU they are the
    business of the attention kernel (`paged`), where it was compiled and the shape suits it; the
    layout of a block of keys is then its own.
    """

    def __init__(
        self,
        config: GPTConfig,
        blocks: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layer, blocks, config.n_head, BLOCK_TOKENS, config.head_dim)
        # Not zeroed: pages that no sequence has used yet then cost no memory.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.blocks = blocks
        kernel = int8.load() if PagedCache.fits(self.keys) else None
        self.paged = PagedCache(kernel, self.keys, self.values) if kernel else None

    @staticmethod
    def bytes_per_block(config: GPTConfig, dtype: torch.dtype) -> int:
        """Memory of one block in all layers, in bytes."""
        return 2 * config.n_layer * BLOCK_TOKENS * config.n_embd * dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True)
class Segment:
    """The new tokens of one sequence within a step."""

    blocks: Sequence[int]
    """Where its tokens are, in their order; enough for the new ones, too."""
    start: int
    """How many tokens of this sequence are in the cache already."""
    length: int
    """How many follow now: 1 when decoding, more in prefill."""


class CacheStep:
    """Attention of one forward pass over a flat batch of segments.

    The tokens of all segments stand one after another in one dimension, so that no padding is ever
    computed, and prefill and decoding share a step. With the kernel, a token gets the same bits
    however its sequence is cut into steps, and whatever else is in them; without, nearly the same.
    """

    def __init__(self, cache: KVCache, segments: Sequence[Segment]) -> None:
        for segment in segments:
            assert segment.start + segment.length <= len(segment.blocks) * BLOCK_TOKENS, (
                "segment overruns its blocks"
            )
        self.cache = cache
        self.plan: Plan | None = None
        """The same for the kernel."""
        if cache.paged:
            self.plan = Plan(cache.paged, [(s.blocks, s.start, s.length) for s in segments])
            return
        device = cache.keys.device
        places = [
            (segment.blocks[at // BLOCK_TOKENS], at % BLOCK_TOKENS)
            for segment in segments
            for at in range(segment.start, segment.start + segment.length)
        ]
        # Of each new token: its block, and its place there.
        self._block, self._place = torch.tensor(places, device=device).view(-1, 2).unbind(1)
        self._segments = [
            (
                torch.tensor(segment.blocks[: blocks_for(end)], device=device),
                segment.length,
                end,
                self._mask(segment, device),
            )
            for segment in segments
            for end in [segment.start + segment.length]
        ]

    @staticmethod
    def _mask(segment: Segment, device: torch.device) -> Tensor | None:
        """What a later chunk of a prompt sees: all that is cached and, of its own, the earlier."""
        if segment.start == 0 or segment.length == 1:
            return None
        shape = (segment.length, segment.start + segment.length)
        return torch.ones(shape, dtype=torch.bool, device=device).tril_(segment.start)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store `key` and `value`, and attend over all that each sequence has so far.

        Args:
            layer: index of the block of the network.
            query, key, value: (tokens, head, head_dim).

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
        for blocks, length, end, mask in self._segments:
            rows = slice(first, first + length)
            attended = F.scaled_dot_product_attention(
                query[rows].transpose(0, 1)[None].to(keys.dtype),
                _in_order(keys, blocks, end),
                _in_order(values, blocks, end),
                attn_mask=mask,
                is_causal=mask is None and length > 1,
            )
            out[rows] = attended[0].transpose(0, 1).to(out.dtype)
            first = rows.stop
        return out


def _in_order(cells: Tensor, blocks: Tensor, end: int) -> Tensor:
    """The first `end` tokens of a sequence: (block, head, place, dim) -> (1, head, end, dim)"""
    return cells[blocks].transpose(0, 1).flatten(1, 2)[None, :, :end]
