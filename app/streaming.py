"""Generation as server-sent events.

    data: {"index": 0, "text": "Once"}
    data: {"index": 0, "text": "", "finish_reason": "length", "usage": {…}, …}
    data: [DONE]

An error after the first byte is `event: error`, with a problem as its data, and the end.
"""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.dispatch import Job
from app.errors import Problem, internal, of_exception
from app.generation import Generation, logprobs_json, timings, usage
from model.engine.request import Event, Finished, Text
from model.errors import PenwrightError

logger = logging.getLogger(__name__)


def encode_event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event. JSON has no line breaks, so it is one `data` line."""
    line = f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{line}" if name else line).encode()


async def start_stream(generation: Generation) -> "EventStream":
    """Begin to generate; the answer starts with the first event.

    Until then, an error is still an answer of its own, with its status.
    """
    job = generation.model.dispatcher.open(generation.requests)
    try:
        first = await anext(job)
    except BaseException:
        job.close()
        raise
    return EventStream(generation, job, first)


class EventStream(StreamingResponse):
    """The events of a generation, as they come."""

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, job: Job, first: tuple[int, Event]) -> None:
        super().__init__(
            self._events(generation, job, first),
            # Proxies would otherwise collect the pieces before they pass them on.
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._job = job
        self._scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.close()

    async def _events(
        self, generation: Generation, job: Job, first: tuple[int, Event]
    ) -> AsyncIterator[bytes]:
        ends: dict[int, Finished] = {}
        try:
            yield self._event(generation, *first, ends)
            async for index, event in job:
                yield self._event(generation, index, event, ends)
            yield b"data: [DONE]\n\n"
        except Exception as error:
            # The status is sent: what remains is an event that says so.
            if isinstance(error, PenwrightError):
                error = of_exception(error)
            problem = error if isinstance(error, Problem) else internal()
            if problem.status_code == 500:
                logger.exception("a stream failed", extra={"id": generation.id})
            self._scope["state"]["stream_error"] = problem.status_code
            yield encode_event(problem.body(self._scope), "error")

    def _event(
        self, generation: Generation, index: int, event: Event, ends: dict[int, Finished]
    ) -> bytes:
        data: dict[str, Any] = {"index": index, "text": ""}
        if isinstance(event, Text):
            data["text"] = event.text
            if generation.logprobs:
                data["logprobs"] = logprobs_json(event.logprobs)
        elif isinstance(event, Finished):
            data["finish_reason"] = event.reason
            ends[index] = event
            if len(ends) == len(generation.requests):
                in_order = [ends[i] for i in range(len(ends))]
                data["id"] = generation.id
                data["model"] = generation.model.name
                data["usage"] = usage(generation, in_order).model_dump()
                data["timings"] = timings(in_order).model_dump()
        return encode_event(data)
