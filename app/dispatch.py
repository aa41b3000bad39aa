"""The engine, seen from the event loop.

The engine's thread hands over the events of a step with one call into the loop; here they are
sorted to the requests that wait for them. A `Job` is all the sequences of one HTTP request: they
are admitted together or not at all, and go together when one fails or the client leaves.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType

from app.errors import of_failure, queue_full, unavailable
from app.metrics import Metrics
from model.checkpoint import Adapter, Base
from model.engine.engine import Engine, QueueFull, ShuttingDown
from model.engine.request import (
    Classified,
    EngineStats,
    Event,
    Failed,
    Finished,
    Generate,
    Request,
    Text,
)
from model.engine.settings import EngineSettings
from model.sampling import SamplingSettings

logger = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long after its deadline a request waits for the engine to say so itself."""
POLL_SECONDS = 0.005


class Dispatcher:
    """Runs one engine and brings its events to the requests.

    Its methods are called on the event loop, other than `start` and `stop`, which block.
    """

    def __init__(
        self,
        base: Base,
        adapters: Mapping[str, Adapter],
        settings: EngineSettings,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.engine = Engine(base, adapters, settings, self._deliver)
        self.metrics = metrics
        self._end_token = base.tokenizer.end_token
        self._loop = loop
        self._jobs: dict[str, Job] = {}
        self._turning: asyncio.Task[bool] | None = None

    def start(self) -> None:
        self.engine.start()

    def stop(self, timeout: float) -> None:
        """End the engine; what is not finished after `timeout` seconds fails."""
        self.engine.stop(timeout)

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def open(self, requests: Sequence[Request], *, probe: bool = False) -> "Job":
        """Admit `requests`, all of them or none.

        Args:
            probe: jump the queue and its bound, and stay out of the metrics.

        Raises:
            Problem: 429 the queue is full; 503 the engine stops or is dead.
            ContextLengthError, UsageError: a request is not possible.
        """
        job = Job(self, requests, counted=not probe)
        try:
            self._jobs |= {request.id: job for request in requests}
            self.engine.submit(*requests, probe=probe)
        except QueueFull as error:
            job.close()
            raise queue_full(f"{error}; try again later") from error
        except ShuttingDown as error:
            job.close()
            raise unavailable("draining", str(error)) from error
        except BaseException:
            job.close()
            raise
        return job

    def forget(self, request_id: str, *, cancel: bool) -> None:
        """Deliver no more events of a request; `cancel` it if it has not ended."""
        if self._jobs.pop(request_id, None) is not None and cancel:
            self.engine.cancel(request_id)

    def fail_all(self, failed: Failed) -> None:
        """End every job now, without the engine."""
        for job in set(self._jobs.values()):
            job.fail(failed)

    async def turns(self, limit: float) -> bool:
        """Whether the engine really makes steps, shown within `limit` seconds.

        An idle engine is given one token to compute; a busy one must get on with what it has.
        """
        if self._turning is None or self._turning.done():
            # Many may ask at once; one probe answers them all.
            self._turning = asyncio.create_task(self._turns(limit))
        return await asyncio.shield(self._turning)

    async def _turns(self, limit: float) -> bool:
        if not self.engine.alive:
            return False
        before = self.stats()
        try:
            async with asyncio.timeout(limit):
                # What keeps it busy may end without a step: all of it cancelled. Then it is idle.
                while (now := self.stats()).running or now.waiting:
                    if now.steps != before.steps:
                        return True
                    if not self.engine.alive:
                        return False
                    await asyncio.sleep(POLL_SECONDS)
                with self.open([self._probe()], probe=True) as job:
                    async for _ in job:
                        pass
                return True
        except Exception as error:
            logger.warning("the engine does not turn: %s", error or type(error).__name__)
            return False

    def _probe(self) -> Request:
        want = Generate(max_new_tokens=1, sampling=SamplingSettings(temperature=0))
        return Request(f"probe-{uuid.uuid4().hex}", (self._end_token,), want)

    def _deliver(self, events: list[tuple[str, Event]]) -> None:
        """Called in the engine's thread, once a step."""
        # When the loop is closed, nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._distribute, events)

    def _distribute(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            job = self._jobs.get(request_id)
            if job is not None:
                job.put(request_id, event)


class Job:
    """The sequences of one HTTP request: iterate over their (index, event) pairs.

    The index is the place of the sequence's `Request`. Iteration ends after the last event, and
    raises a `Problem` when a sequence fails. Whoever opened the job closes it, whatever happens:
    that takes what is left of it out of the engine.
    """

    def __init__(
        self, dispatcher: Dispatcher, requests: Sequence[Request], *, counted: bool = True
    ) -> None:
        self._dispatcher = dispatcher
        self._counted = counted
        self._indices = {request.id: index for index, request in enumerate(requests)}
        self._unfinished = set(self._indices)
        streams = any(isinstance(r.want, Generate) and r.want.stream for r in requests)
        self._first_result = Text if streams else Finished | Classified
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._left = len(requests)
        self._started = time.monotonic()
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        deadlines = [r.deadline for r in requests if r.deadline is not None]
        if deadlines:
            # The engine looks at deadlines between steps; should it hang, the request does not.
            delay = min(deadlines) - self._started + GRACE_SECONDS
            failed = Failed("deadline", "the request's time is over")
            self._timer = asyncio.get_running_loop().call_later(delay, self.fail, failed)

    def put(self, request_id: str, event: Event) -> None:
        """An event of the engine."""
        if self._counted:
            self._count(event)
        if not isinstance(event, Text):
            self._unfinished.discard(request_id)
            self._dispatcher.forget(request_id, cancel=False)
        self._events.put_nowait((self._indices[request_id], event))

    def _count(self, event: Event) -> None:
        metrics = self._dispatcher.metrics
        if not self._answered and isinstance(event, self._first_result):
            self._answered = True
            seconds = time.monotonic() - self._started
            if isinstance(event, Finished):  # the text of a whole request comes with its end
                seconds -= event.timings.decode
            metrics.first_token(seconds)
        if isinstance(event, Finished):
            metrics.tokens(event.prompt_tokens, event.completion_tokens)
        elif isinstance(event, Classified):
            metrics.tokens(event.prompt_tokens, 0)

    def fail(self, failed: Failed) -> None:
        """End the job for a reason from outside the engine."""
        self._events.put_nowait((0, failed))

    def __aiter__(self) -> "Job":
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._left:
            raise StopAsyncIteration
        index, event = await self._events.get()
        if isinstance(event, Failed):
            self.close()
            raise of_failure(event)
        if not isinstance(event, Text):
            self._left -= 1
        return index, event

    def close(self) -> None:
        """Take what has not ended out of the engine. May be called more than once."""
        if self._timer is not None:
            self._timer.cancel()
        for request_id in self._unfinished:
            self._dispatcher.forget(request_id, cancel=True)
        self._unfinished.clear()

    def __enter__(self) -> "Job":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
