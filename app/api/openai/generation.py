"""What the answers about one generation share, whole or as a stream."""

import time
from collections.abc import Sequence
from typing import Any

from app.api.generation import Generation, usage
from app.api.openai.answers import CachedTokens, FinishReason, Usage
from app.engine.loading import ServedModel
from model.engine.request import Finished


def fingerprint(model: ServedModel) -> str:
    """Changes when the model that answers by this name is another one."""
    checkpoint = model.base.id if model.adapter is None else model.adapter.id
    return f"fp_{checkpoint[:16]}"


def head(generation: Generation, prefix: str, kind: str) -> dict[str, Any]:
    """The members that an answer begins with, or each event of a stream."""
    return {
        "id": f"{prefix}-{generation.id}",
        "object": kind,
        "created": int(time.time()),
        "model": generation.model.name,
        "system_fingerprint": fingerprint(generation.model),
    }


def finish_reason(end: Finished) -> FinishReason:
    return "length" if end.reason == "length" else "stop"


def openai_usage(generation: Generation, ends: Sequence[Finished]) -> Usage:
    counts = usage(generation, ends)
    return Usage(
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        total_tokens=counts.total_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=counts.cached_tokens),
    )
