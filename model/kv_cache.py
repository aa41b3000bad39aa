"""Keys and values of running sequences, so that a token is computed once.

The memory is taken once, at the start, as a fixed number of slots of one context each: its size is
known before the first request, and a step allocates nothing for it. Which sequence is in which slot
is the scheduler's business; the network sees a `CacheStep`, which says for one forward pass where
the new tokens of each sequence go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import GPTConfig


class KVCache:
    """`slots` sequences of up to `length` tokens each.

    `keys` and `values` are (layer, slot, head, time, head_dim).
    """

    def __init__(
        self,
        config: GPTConfig,
        slots: int,
        *,
        length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.length = config.context_length if length is None else length
        shape = (config.n_layer, slots, config.n_head, self.length, config.head_dim)
        # Not zeroed: pages that no sequence has used yet then cost no memory.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.slots = slots
        self._free = list(range(slots - 1, -1, -1))

    @staticmethod
    def bytes_per_slot(config: GPTConfig, dtype: torch.dtype) -> int:
        """Memory of one slot of a full context, in bytes."""
        return 2 * config.n_layer * config.context_length * config.n_embd * dtype.itemsize

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def acquire(self) -> int:
        """A slot that nobody uses. Asking when there is none is a bug of the caller's."""
        assert self._free, "no free cache slot"
        return self._free.pop()

    def release(self, slot: int) -> None:
        assert slot not in self._free, f"cache slot {slot} released twice"
        self._free.append(slot)


@dataclass(frozen=True)
class Segment:
    """The new tokens of one sequence within a step."""

    slot: int
    start: int
    """How many tokens of this sequence are in the cache already."""
    length: int
    """How many follow now: 1 when decoding, more in prefill."""


class CacheStep:
    """Attention of one forward pass over a flat batch of segments.

    The tokens of all segments stand one after another in one dimension, so that no padding is ever
    computed, and prefill and decoding share a step.
    """

    def __init__(self, cache: KVCache, segments: Sequence[Segment]) -> None:
        for segment in segments:
            assert segment.start + segment.length <= cache.length, "segment overruns its slot"
        self.cache = cache
        self.segments = tuple(segments)
        # A later chunk of a prompt sees all that is cached and, of its own tokens, the earlier.
        self._masks = {
            segment: torch.ones(
                segment.length,
                segment.start + segment.length,
                dtype=torch.bool,
                device=cache.keys.device,
            ).tril_(segment.start)
            for segment in self.segments
            if segment.start > 0 and segment.length > 1
        }

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store `key` and `value`, and attend over all that each sequence has so far.

        Args:
            layer: index of the block.
            query, key, value: (tokens, head, head_dim).

        Returns:
            (tokens, head, head_dim)
        """
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        out = torch.empty_like(query)
        offset = 0
        for segment in self.segments:
            rows = slice(offset, offset + segment.length)
            end = segment.start + segment.length
            k, v = keys[segment.slot], values[segment.slot]  # (head, time, head_dim)
            k[:, segment.start : end] = key[rows].transpose(0, 1)
            v[:, segment.start : end] = value[rows].transpose(0, 1)
            out[rows] = (
                F.scaled_dot_product_attention(
                    query[rows].transpose(0, 1)[None].to(k.dtype),
                    k[None, :, :end],
                    v[None, :, :end],
                    attn_mask=self._masks.get(segment),
                    is_causal=segment.start == 0 and segment.length > 1,
                )[0]
                .transpose(0, 1)
                .to(out.dtype)
            )
            offset = rows.stop
        return out
