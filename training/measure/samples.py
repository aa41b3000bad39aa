"""Text from a network in training, through the engine that also serves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from model.checkpoint import Adapter, Base
from model.engine.engine import Engine
from model.engine.request import Failed, Finished, FinishReason, Generate, Request, Text
from model.engine.settings import EngineSettings, cache_dtype
from model.errors import PenwrightError
from model.kv_cache import KVCache, blocks_for
from model.sampling import SamplingSettings
from model.tokenizer import Tokenizer
from model.transformer import Transformer

PROMPTS = ("Once upon a time", "The king looked at", "The city is located in")
"""What samples of a base continue."""


def answers(
    base: Base, adapters: Mapping[str, Adapter], requests: Iterable[Request]
) -> list[tuple[str, FinishReason]]:
    """The text that each request gets, and why it ends there.

    Raises:
        PenwrightError: a step of the engine failed.
    """
    requests = list(requests)
    engine = Engine(base, adapters, _settings(base, requests), deliver=lambda events: None)
    found: list[tuple[str, FinishReason]] = []
    for events in engine.run(requests):
        reason: FinishReason = "length"
        for event in events:
            if isinstance(event, Failed):
                raise PenwrightError(f"generating text failed: {event.message}")
            if isinstance(event, Finished):
                reason = event.reason
        found.append(("".join(event.text for event in events if isinstance(event, Text)), reason))
    return found


def _settings(base: Base, requests: Sequence[Request]) -> EngineSettings:
    """With a cache that all slots fit into at once, and no larger one: what is kept for prompts
    that begin alike would fill it in the course of many requests."""
    usual = EngineSettings()
    config, dtype = base.config, cache_dtype(base.model)
    longest = max(
        (
            len(request.tokens) + request.want.max_new_tokens
            for request in requests
            if isinstance(request.want, Generate)
        ),
        default=config.context_length,
    )
    length = min(longest, usual.context_length(config, dtype))
    blocks = min(usual.slots * blocks_for(length), usual.blocks(config, dtype))
    size = blocks * KVCache.bytes_per_block(config, dtype)
    return replace(usual, cache_mb=math.ceil(size / 2**20), max_context=length)


def generate(base: Base, adapters: Mapping[str, Adapter], requests: Iterable[Request]) -> list[str]:
    """The text that each request gets; see `answers`."""
    return [text for text, _ in answers(base, adapters, requests)]


def continuations(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int = 48
) -> list[str]:
    """Each prompt with what the network makes of it, drawn with a fixed seed."""
    stop = tokenizer.special.stop
    base = Base(Path(), "", "generate", model.config, model, tokenizer, stop, None, {})
    context = model.config.context_length
    sampling = SamplingSettings(temperature=0.7, top_p=0.95, seed=1)
    requests = []
    for number, prompt in enumerate(prompts):
        tokens = tuple(tokenizer.encode_prompt(prompt)[: context - 1])
        want = Generate(min(max_new_tokens, context - len(tokens)), sampling)
        requests.append(Request(str(number), tokens, want))
    pairs = zip(prompts, generate(base, {}, requests), strict=True)
    return [prompt + text for prompt, text in pairs]
