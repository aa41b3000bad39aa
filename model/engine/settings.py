"""Bounds of an engine: how much runs, waits and is remembered at once."""

import math
from dataclasses import dataclass

import torch

from model.config import GPTConfig
from model.errors import UsageError
from model.gpt import GPT
from model.kv_cache import KVCache, blocks_for
from model.quantized_blocks import CACHE_DTYPE

_CONTEXTS = 16
"""Full contexts that the cache holds unless its size is given."""


@dataclass(frozen=True)
class EngineSettings:
    """Bounds of an engine."""

    slots: int = 32
    """Sequences that run at once."""
    max_waiting: int = 256
    """Requests that may wait for a slot."""
    step_tokens: int = 256
    """Largest number of tokens computed in one step; at least `slots`. What is to be generated
    waits for the prompts of its step, so that a smaller number makes streams smoother, and a larger
    one prompts faster."""
    cache_mb: int = 0
    """Memory for keys and values, in MB; 0 is what 16 full contexts need. Sequences that do not
    fit wait, or make room and come back."""
    reuse_prefixes: bool = True
    """Whether what an earlier request left in the cache is taken over by one that begins alike."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise UsageError(f"slots is {self.slots}; it must be at least 1")
        if self.max_waiting < 0:
            raise UsageError(f"max_waiting is {self.max_waiting}; it must be at least 0")
        if self.step_tokens < self.slots:
            raise UsageError(
                f"step_tokens is {self.step_tokens}; it must be at least slots ({self.slots})"
            )
        if self.cache_mb < 0:
            raise UsageError(f"cache_mb is {self.cache_mb}; it must be at least 0")

    def blocks(self, config: GPTConfig, dtype: torch.dtype) -> int:
        """The number of cache blocks for a network.

        Raises:
            UsageError: `cache_mb` is too small for one full context.
        """
        context = blocks_for(config.context_length)
        if not self.cache_mb:
            return _CONTEXTS * context
        size = KVCache.bytes_per_block(config, dtype)
        blocks = self.cache_mb * 2**20 // size
        if blocks < context:
            raise UsageError(
                f"cache_mb is {self.cache_mb}; one context of {config.context_length} tokens needs "
                f"{math.ceil(context * size / 2**20)}"
            )
        return blocks


def cache_dtype(model: GPT) -> torch.dtype:
    """In which keys and values are kept."""
    return CACHE_DTYPE if model.quantized else model.dtype
