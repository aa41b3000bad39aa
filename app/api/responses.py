"""A generation that is under way, and its answers: whole, or as a stream.

Each endpoint has an `Answer`, which says how its clients are told. By default a stream is one of
server-sent events: it ends with `data: [DONE]`; an error after its first byte is an event with a
problem as its data, and the end. While there is nothing to tell, it has comments, so that no proxy
takes it for dead.
"""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.engine.events import SequenceEvents
from app.engine.loading import ServedModel
from app.errors import Problem, internal, of_exception
from model.engine.request import Event, Finished, Request, Text, TokenLogprob
from model.errors import PenwrightError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """What one HTTP request asks of the engine."""

    id: str
    model: ServedModel
    requests: list[Request]
    choices: int
    """For each prompt: sequence p * choices + k is choice k of prompt p."""
    logprobs: bool

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.tokens) for request in self.requests[:: self.choices])


@dataclass
class Completion:
    """One sequence as it grows, and its end."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: Finished | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Text):
            self.pieces.append(event.text)
            self.logprobs += event.logprobs
        elif isinstance(event, Finished):
            self.end = event

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def finished(self) -> Finished:
        assert self.end is not None, "the events ended without this sequence's end"
        return self.end


class Usage(BaseModel):
    """Numbers of tokens."""

    __qualname__ = "app__answers__Usage"  # in /openapi.json: programs are generated from it

    prompt_tokens: int = Field(description="Of the prompts; each counts once, whatever `n` is.")
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed.")


class Timings(BaseModel):
    """Seconds, with several choices the longest of each; and tokens, of all choices."""

    queue: float = Field(description="Until the engine took the request up.")
    prefill: float = Field(description="From there to the first token.")
    decode: float = Field(description="From there to the last.")
    drafted_tokens: int = Field(
        description="Tokens computed in advance, because they had followed the same ones before, "
        "or `response_format` makes them likely."
    )
    accepted_tokens: int = Field(description="How many of them came, and spared a step.")
    forced_tokens: int = Field(
        description="Tokens that were not drawn, because `response_format` left no choice."
    )


def usage(generation: Generation, ends: Sequence[Finished]) -> Usage:
    completion = sum(end.completion_tokens for end in ends)
    return Usage(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=completion,
        total_tokens=generation.prompt_tokens + completion,
        cached_tokens=sum(end.cached_tokens for end in ends[:: generation.choices]),
    )


def timings(ends: Sequence[Finished]) -> Timings:
    return Timings(
        queue=round(max(end.timings.queue for end in ends), 6),
        prefill=round(max(end.timings.prefill for end in ends), 6),
        decode=round(max(end.timings.decode for end in ends), 6),
        drafted_tokens=sum(end.drafted_tokens for end in ends),
        accepted_tokens=sum(end.accepted_tokens for end in ends),
        forced_tokens=sum(end.forced_tokens for end in ends),
    )


async def json_response(
    answer: BaseModel, items: Iterable[BaseModel], *, large: bool, member: str = "choices"
) -> Response:
    """`answer` with `items`.

    With log-probabilities they can have hundreds of thousands of numbers, each in an object of its
    own: seconds of work, in which the event loop would answer nobody. So a thread does it, an item
    at a time: a long call into pydantic would keep the event loop waiting from there, too, as would
    the garbage collector if all the objects were there at once.

    Args:
        answer: has no items yet.
        items: are best made as they are asked for.
        large: whether to leave the event loop for it.
        member: the name of the items in the answer.
    """
    arguments = answer, items, member
    body = await asyncio.to_thread(_json, *arguments) if large else _json(*arguments)
    return Response(body, media_type=JSONResponse.media_type)


def _json(answer: BaseModel, items: Iterable[BaseModel], member: str) -> bytes:
    rest = answer.model_dump_json(exclude={member})
    listed = ",".join(item.model_dump_json() for item in items)
    return f'{rest[:-1]},"{member}":[{listed}]}}'.encode()


KEEP_ALIVE_SECONDS = 15.0
"""So long at most is a stream silent. Proxies and load balancers close what is silent for 30 to 60.
"""
KEEP_ALIVE = b": keep-alive\n\n"
_LINE_BREAKS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
"""What `str.splitlines` splits at, and JSON need not escape (all below U+0020 it must)."""


def _one_line(data: dict[str, Any]) -> str:
    """JSON on one line, wherever a client splits lines."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_LINE_BREAKS)


def encode_event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event with one `data` line."""
    line = f"data: {_one_line(data)}\n\n"
    return (f"event: {name}\n{line}" if name else line).encode()


def encode_line(data: dict[str, Any]) -> bytes:
    """One object of a stream that has one a line."""
    return f"{_one_line(data)}\n".encode()


class Answer(ABC):
    """How a client is told of a generation: as JSON when all is done, or piece by piece."""

    media_type: ClassVar[str] = "text/event-stream"
    """Of a stream."""
    error_name: ClassVar[str | None] = None
    """Name of the event of an error."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._ends: dict[int, Finished] = {}

    @abstractmethod
    async def whole(self, completions: Sequence[Completion]) -> Response:
        """The answer in one, with a completion for each sequence."""

    def event(self, index: int, event: Event) -> bytes:
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

    def begin(self) -> bytes:
        """What a stream has before all else."""
        return b""

    def sign_of_life(self) -> bytes:
        """What it has while there is nothing to tell."""
        return KEEP_ALIVE

    def failure(self, body: dict[str, Any]) -> bytes:
        """What it ends with after an error.

        Args:
            body: as the error would have it, had the answer not begun.
        """
        return encode_event(body, self.error_name)

    def done(self) -> bytes:
        """What it ends with after all sequences have."""
        return b"data: [DONE]\n\n"


async def start_stream(answer: Answer) -> "AnswerStream":
    """Begin to generate; the answer starts with the first event.

    Until then, an error is still an answer of its own, with its status; unless the first event is
    so long in coming that the client has to be told that somebody is there.
    """
    generation = answer.generation
    events = generation.model.client.submit(generation.requests)
    try:
        first = await _next(events)
    except BaseException:
        events.close()
        raise
    return AnswerStream(answer, events, first)


async def _next(events: SequenceEvents) -> tuple[int, Event] | None:
    """The next event, as `anext`; None if it is time to say that there will be one."""
    try:
        async with asyncio.timeout(KEEP_ALIVE_SECONDS):
            return await anext(events)
    except TimeoutError:
        return None


class AnswerStream(StreamingResponse):
    """The events of a generation, as they come."""

    def __init__(
        self, answer: Answer, events: SequenceEvents, first: tuple[int, Event] | None
    ) -> None:
        super().__init__(
            self._encoded(answer, events, first),
            # Proxies would otherwise collect the pieces before they pass them on.
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            media_type=answer.media_type,
        )
        self._events = events
        self._scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._events.close()

    async def _encoded(
        self, answer: Answer, events: SequenceEvents, first: tuple[int, Event] | None
    ) -> AsyncIterator[bytes]:
        found = first
        try:
            begin = answer.begin()
            while True:
                yield begin + (answer.sign_of_life() if found is None else answer.event(*found))
                begin = b""
                found = await _next(events)
        except StopAsyncIteration:
            if last := answer.done():
                yield last
        except Exception as error:
            # The status is sent: what remains is an event that says so.
            if isinstance(error, PenwrightError):
                error = of_exception(error)
            problem = error if isinstance(error, Problem) else internal()
            if problem.status_code == 500:
                logger.exception("a stream failed", extra={"id": answer.generation.id})
            self._scope["state"]["stream_error"] = problem.status_code
            yield answer.failure(problem.body(self._scope))
