"""All the sequences of one HTTP request, as the one who waits for them sees them.

They are admitted together or not at all, and go together when one fails or the client leaves.
"""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from app.errors import of_failure
from app.ops.context import REQUEST_CONTEXT, Work
from app.ops.engine_metrics import SequenceFigures
from model.engine.request import (
    Classified,
    Embedded,
    Event,
    Failed,
    Finished,
    Generate,
    Request,
    Scored,
    Text,
)

GRACE_SECONDS = 1.0
"""How long after its deadline a request waits for the engine to say so itself."""


class Source(Protocol):
    """Where the events come from."""

    def forget(self, request_id: str, *, cancel: bool) -> None:
        """Deliver no more events of a request; `cancel` it if it has not ended."""


class SequenceEvents:
    """Iterate over the (index, event) pairs of its sequences.

    The index is the place of the sequence's `Request`. Iteration ends after the last event, and
    raises a `Problem` when a sequence fails. Whoever has them closes them, whatever happens:
    that takes what is left of them out of the engine.
    """

    def __init__(self, source: Source, requests: Sequence[Request]) -> None:
        self._source = source
        self._requests = requests
        self._indices = {request.id: index for index, request in enumerate(requests)}
        self._unfinished = set(self._indices)
        wants = [r.want for r in requests if isinstance(r.want, Generate)]
        calls = any(want.constraint and want.constraint.kind == "call" for want in wants)
        self._form = "tools" if calls else "response_format"
        streams = any(want.stream for want in wants)
        self._first_result = (
            Text | Finished if streams else Finished | Classified | Embedded | Scored
        )
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._left = len(requests)
        self._started = time.monotonic()
        self._figures: SequenceFigures | None = None
        self._failure: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        deadlines = [r.deadline for r in requests if r.deadline is not None]
        if deadlines:
            # The engine looks at deadlines between steps; should it hang, the request does not.
            delay = min(deadlines) - self._started + GRACE_SECONDS
            failed = Failed("deadline", "the request's time is over")
            self._timer = asyncio.get_running_loop().call_later(delay, self.fail, failed)

    def count(self, task: str, model: str, figures: SequenceFigures) -> None:
        """Have the metrics, and the request that it is for, know of it. It was admitted."""
        self._figures = figures
        self._work = Work(task, model, self._requests, self._started)
        context = REQUEST_CONTEXT.get()
        if context is not None:
            context.work.append(self._work)

    def put(self, request_id: str, event: Event) -> None:
        """An event of the engine."""
        if self._figures is not None:
            self._count(self._figures, event)
        if not isinstance(event, Text):
            self._unfinished.discard(request_id)
            self._source.forget(request_id, cancel=False)
        self._events.put_nowait((self._indices[request_id], event))

    def _count(self, figures: SequenceFigures, event: Event) -> None:
        work = self._work
        if work.first_token is None and isinstance(event, self._first_result):
            work.first_token = time.monotonic() - self._started
            if isinstance(event, Finished):  # the text of a whole request comes with its end
                work.first_token -= event.timings.decode
            figures.first_token(work.first_token)
        if isinstance(event, Text):
            return
        if isinstance(event, Failed):
            figures.given_up(event.reason)
            work.reasons.append(event.reason)
            return
        reason, completion = "done", 0
        if isinstance(event, Finished):
            reason, completion = event.reason, event.completion_tokens
        if not isinstance(event, Embedded | Scored):
            work.cached_tokens += event.cached_tokens
        work.prompt_tokens += event.prompt_tokens
        work.completion_tokens += completion
        work.ended(reason, event.timings)
        figures.finished(reason, event.prompt_tokens, completion, event.timings)

    def fail(self, failed: Failed) -> None:
        """End all of them for a reason from outside the engine."""
        self._events.put_nowait((0, failed))

    def __aiter__(self) -> "SequenceEvents":
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._left:
            raise StopAsyncIteration
        index, event = await self._events.get()
        if isinstance(event, Failed):
            self._failure = event.reason
            self.close()
            raise of_failure(event, self._form)
        if not isinstance(event, Text):
            self._left -= 1
        return index, event

    def close(self) -> None:
        """Take what has not ended out of the engine. May be called more than once."""
        if self._timer is not None:
            self._timer.cancel()
        for request_id in self._unfinished:
            self._source.forget(request_id, cancel=True)
            if self._figures is not None:
                reason = self._failure or "cancelled"
                self._figures.given_up(reason)
                self._work.reasons.append(reason)
        self._unfinished.clear()

    def __enter__(self) -> "SequenceEvents":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
