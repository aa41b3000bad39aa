"""Generation as server-sent events.

    data: {"index": 0, "text": "Once"}
    data: {"index": 0, "text": "", "finish_reason": "length", "usage": {…}, …}
    data: [DONE]

An error after the first byte is `event: error`, with a problem as its data, and the end. Below /v1
events look otherwise: `app.api.openai.streaming` has them.
"""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.generation import Generation, logprobs_json, timings, usage
from app.engine.events import Job
from app.errors import Problem, internal, of_exception
from model.engine.request import Event, Finished, Text
from model.errors import PenwrightError

logger = logging.getLogger(__name__)


def encode_event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event. JSON has no line breaks, so it is one `data` line."""
    line = f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{line}" if name else line).encode()


class Encoder(ABC):
    """How the events of one generation look to the client."""

    error_name: str | None = None
    """Name of the event of an error."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._ends: dict[int, Finished] = {}

    def encode(self, index: int, event: Event) -> bytes:
        """What is sent for an event of sequence `index`."""
        if isinstance(event, Text):
            return self.text(index, event)
        assert isinstance(event, Finished)
        self._ends[index] = event
        if len(self._ends) < len(self.generation.requests):
            return self.end(index, event, None)
        return self.end(index, event, [self._ends[i] for i in range(len(self._ends))])

    @abstractmethod
    def text(self, index: int, event: Text) -> bytes:
        """A piece of a sequence."""

    @abstractmethod
    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        """The end of a sequence; with the last one come those of all, in order."""


class Pieces(Encoder):
    """The events of /generate and /instruct."""

    error_name = "error"

    def text(self, index: int, event: Text) -> bytes:
        data: dict[str, Any] = {"index": index, "text": event.text}
        if self.generation.logprobs:
            data["logprobs"] = logprobs_json(event.logprobs)
        return encode_event(data)

    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        data = {"index": index, "text": "", "finish_reason": event.reason}
        if ends is not None:
            data["id"] = self.generation.id
            data["model"] = self.generation.model.name
            data["usage"] = usage(self.generation, ends).model_dump()
            data["timings"] = timings(ends).model_dump()
        return encode_event(data)


async def start_stream(generation: Generation, encoder: Encoder | None = None) -> "EventStream":
    """Begin to generate; the answer starts with the first event.

    Until then, an error is still an answer of its own, with its status.
    """
    job = generation.model.dispatcher.open(generation.requests)
    try:
        first = await anext(job)
    except BaseException:
        job.close()
        raise
    return EventStream(encoder or Pieces(generation), job, first)


class EventStream(StreamingResponse):
    """The events of a generation, as they come."""

    media_type = "text/event-stream"

    def __init__(self, encoder: Encoder, job: Job, first: tuple[int, Event]) -> None:
        super().__init__(
            self._events(encoder, job, first),
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
        self, encoder: Encoder, job: Job, first: tuple[int, Event]
    ) -> AsyncIterator[bytes]:
        try:
            yield encoder.encode(*first)
            async for index, event in job:
                yield encoder.encode(index, event)
            yield b"data: [DONE]\n\n"
        except Exception as error:
            # The status is sent: what remains is an event that says so.
            if isinstance(error, PenwrightError):
                error = of_exception(error)
            problem = error if isinstance(error, Problem) else internal()
            if problem.status_code == 500:
                logger.exception("a stream failed", extra={"id": encoder.generation.id})
            self._scope["state"]["stream_error"] = problem.status_code
            yield encode_event(problem.body(self._scope), encoder.error_name)
