"""Texts as vectors: the means of a model's hidden states."""

import uuid
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.engine.loading import ServedModel
from app.errors import beyond_context
from app.ops.context import reserve_tokens
from model.engine.request import Embed, Embedded, Request

Vector = npt.NDArray[np.float32]


async def embed(
    model: ServedModel, inputs: Sequence[Sequence[int]], *, at_once: int, deadline: float
) -> list[Embedded]:
    """The means of the hidden states of token ids, not yet of length 1.

    Args:
        at_once: how many are handed to the engine together; clients send long lists.

    Raises:
        Problem: 400, an input does not fit the context; 429, 503 or 504.
    """
    limit = model.context_length
    for number, tokens in enumerate(inputs):
        if len(tokens) > limit:
            raise beyond_context("input", number, len(tokens), limit, "nothing is cut")
    reserve_tokens(sum(map(len, inputs)))
    identity = uuid.uuid4().hex
    requests = [
        Request(f"{identity}-{number}", tuple(tokens), Embed(), model.adapter_name, deadline)
        for number, tokens in enumerate(inputs)
    ]
    events = await model.client.in_groups(requests, at_once, deadline)
    return [event for event in events if isinstance(event, Embedded)]


def unit(values: Sequence[float]) -> Vector:
    """The vector, scaled to length 1."""
    vector = np.array(values)
    return (vector / (np.linalg.norm(vector) or 1.0)).astype(np.float32)
