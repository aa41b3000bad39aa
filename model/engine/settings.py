"""Bounds of an engine: how much runs, waits and is remembered at once."""

import math
from dataclasses import dataclass

import torch

from model.architecture import Architecture
from model.cpu.quantized_blocks import CACHE_DTYPE
from model.errors import UsageError
from model.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from model.transformer import Transformer

_CONTEXTS = 16
"""Full contexts that the cache holds unless its size is given."""
_MOST_BYTES = 4 * 2**30
"""Of a cache whose size is not given; 16 contexts of 131,072 tokens would fill most machines."""
_STEP_WORK = 8_000_000_000
"""Parameters times tokens of a step on a CPU: 64 tokens of GPT-2 124M."""
_MOST_STEP_TOKENS = 512
_GPU_STEP_TOKENS = 2048


@dataclass(frozen=True)
class EngineSettings:
    """Bounds of an engine."""

    slots: int = 32
    """Sequences that are generated at once. What ends with one step needs none."""
    max_waiting: int = 256
    """Sequences that may wait for a slot; a client with less than an even share may add to them."""
    step_tokens: int = 0
    """Largest number of tokens computed in one step; at least `slots`. 0 is what takes some 20 ms
    on two cores: for so long, a request may have to wait for the prompts of others. More make
    prompts hardly faster there."""
    cache_mb: int = 0
    """Memory for keys and values, in MB; 0 is what 16 full contexts need, at most 4 GB. Sequences
    that do not fit wait, or make room and come back."""
    max_context: int = 0
    """Most tokens of a sequence; 0 is the network's own context, or what a cache of 4 GB holds of
    it."""
    reuse_prefixes: bool = True
    """Whether what an earlier request left in the cache is taken over by one that begins alike."""
    speculate: bool = True
    """Whether tokens are computed in advance that followed the same ones before, where that pays
    and cannot change the result: on a CPU with 8-bit weights, or with products in tiles."""
    force_text: bool = True
    """Whether tokens that a constraint leaves no choice about are taken without drawing them."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise UsageError(f"slots is {self.slots}; it must be at least 1")
        if self.max_waiting < 0:
            raise UsageError(f"max_waiting is {self.max_waiting}; it must be at least 0")
        if self.step_tokens and self.step_tokens < self.slots:
            raise UsageError(
                f"step_tokens is {self.step_tokens}; it must be at least slots ({self.slots})"
            )
        if self.max_context < 0:
            raise UsageError(f"max_context is {self.max_context}; it must be at least 0")
        if self.cache_mb < 0:
            raise UsageError(f"cache_mb is {self.cache_mb}; it must be at least 0")

    def tokens_of_step(self, model: Transformer) -> int:
        """`step_tokens`, or what suits the network."""
        if self.step_tokens:
            return self.step_tokens
        if model.device.type != "cpu":
            return max(2 * self.slots, _GPU_STEP_TOKENS)
        tokens = _STEP_WORK // model.parameter_count()
        return max(2 * self.slots, min(tokens, _MOST_STEP_TOKENS))

    def context_length(self, config: Architecture, dtype: torch.dtype) -> int:
        """The most tokens of a sequence.

        Args:
            dtype: of the cache.

        Raises:
            UsageError: `max_context` is more than the network's.
        """
        if self.max_context > config.context_length:
            raise UsageError(
                f"max_context is {self.max_context}; the network's context has "
                f"{config.context_length} tokens"
            )
        if self.max_context or self.cache_mb:
            return self.max_context or config.context_length
        most = _MOST_BYTES // KVCache.bytes_per_block(config, dtype) * BLOCK_TOKENS
        return min(config.context_length, max(most, BLOCK_TOKENS))

    def blocks(self, config: Architecture, dtype: torch.dtype) -> int:
        """The number of cache blocks for a network.

        Raises:
            UsageError: `cache_mb` is too small for one full context.
        """
        length = self.context_length(config, dtype)
        context, size = blocks_for(length), KVCache.bytes_per_block(config, dtype)
        if not self.cache_mb:
            return max(context, min(_CONTEXTS * context, _MOST_BYTES // size))
        blocks = self.cache_mb * 2**20 // size
        if blocks < context:
            raise UsageError(
                f"cache_mb is {self.cache_mb}; one context of {length} tokens needs "
                f"{math.ceil(context * size / 2**20)} (max_context makes it shorter)"
            )
        return blocks


def cache_dtype(model: Transformer) -> torch.dtype:
    """In which keys and values are kept."""
    return CACHE_DTYPE if model.quantized else model.dtype
