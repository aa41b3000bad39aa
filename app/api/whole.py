"""Answers about a generation as one JSON object.

With log-probabilities they can have hundreds of thousands of numbers, each in an object of its own:
seconds of work, in which the event loop would answer nobody. So a thread does it, a choice at a
time: a long call into pydantic would keep the event loop waiting from there, too, as would the
garbage collector if all the objects were there at once.
"""

import asyncio
from collections.abc import Iterable

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response


async def whole(answer: BaseModel, choices: Iterable[BaseModel], *, large: bool) -> Response:
    """`answer` with `choices`.

    Args:
        answer: has no choices yet.
        choices: are best made as they are asked for.
        large: whether to leave the event loop for it.
    """
    body = await asyncio.to_thread(_json, answer, choices) if large else _json(answer, choices)
    return Response(body, media_type=JSONResponse.media_type)


def _json(answer: BaseModel, choices: Iterable[BaseModel]) -> str:
    rest = answer.model_dump_json(exclude={"choices"})
    listed = ",".join(choice.model_dump_json() for choice in choices)
    return f'{rest[:-1]},"choices":[{listed}]}}'
