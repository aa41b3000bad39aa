"""Texts as vectors: the mean of the model's hidden states, scaled to length 1."""

import base64
import uuid
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.engine.loading import ServedModel
from app.errors import beyond_context
from model.engine.request import Embed, Embedded, Request

Vector = npt.NDArray[np.float32]


async def embed(
    model: ServedModel, inputs: Sequence[Sequence[int]], *, at_once: int, deadline: float
) -> tuple[list[Vector], int]:
    """The vectors, (n_embd,) each, of token ids; and how many tokens that were.

    Args:
        at_once: how many are handed to the engine together; clients send long lists.

    Raises:
        Problem: 400, an input does not fit the context.
    """
    limit = model.context_length
    for number, tokens in enumerate(inputs):
        if len(tokens) > limit:
            raise beyond_context("input", number, len(tokens), limit, "nothing is cut")
    identity = uuid.uuid4().hex
    requests = [
        Request(f"{identity}-{number}", tuple(tokens), Embed(), model.adapter_name, deadline)
        for number, tokens in enumerate(inputs)
    ]
    found: dict[int, Embedded] = {}
    for start in range(0, len(requests), at_once):
        with model.dispatcher.open(requests[start : start + at_once]) as job:
            async for index, event in job:
                assert isinstance(event, Embedded)
                found[start + index] = event
    events = [found[index] for index in range(len(requests))]
    return [_unit(event.values) for event in events], sum(e.prompt_tokens for e in events)


def _unit(values: Sequence[float]) -> Vector:
    vector = np.array(values)
    return (vector / (np.linalg.norm(vector) or 1.0)).astype(np.float32)


def encoded(vector: Vector, form: str) -> list[float] | str:
    """A vector as numbers, or as base64 of its bytes."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
