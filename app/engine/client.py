"""The engine, seen from the event loop.

The engine's thread hands over the events of a step with one call into the loop; here they are
sorted to the requests that wait for them, each with its `SequenceEvents`.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from app.engine.constraint_compiler import ConstraintCompiler
from app.engine.events import SequenceEvents
from app.errors import Problem, late, queue_full, unavailable
from app.ops.context import REQUEST_CONTEXT
from app.ops.engine_metrics import ModelInfo, SequenceFigures
from app.ops.metrics import Metrics
from model.checkpoint import Adapter, Base, checkpoint_name
from model.engine.engine import Engine
from model.engine.intake import QueueFull, ShuttingDown
from model.engine.request import Embed, Event, Failed, Generate, Request, Score
from model.engine.settings import EngineSettings
from model.engine.stats import EngineStats
from model.sampling import SamplingSettings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.005
RETRY_SECONDS = 0.02
"""After which who found the queue full halfway tries again."""


class EngineClient:
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
        self.compiler = ConstraintCompiler(self.engine)
        self.metrics = metrics
        self._end_token = base.tokenizer.end_token
        # Each checkpoint is made for one task, and named as its directory or file.
        own = ModelInfo(checkpoint_name(base.path), base.id, base.task)
        self._models: dict[str | None, ModelInfo] = {None: own}
        for name, adapter in adapters.items():
            self._models[name] = ModelInfo(name, adapter.id, adapter.task)
        self._loop = loop
        self._submitted: dict[str, SequenceEvents] = {}
        self._users = 0
        self._turning: asyncio.Task[bool] | None = None

    def start(self) -> None:
        self.engine.start()
        models = list(self._models.values())
        self.metrics.engines.add(self.engine, self.engine.stats, models)

    def stop(self, timeout: float) -> None:
        """End the engine; what is not finished after `timeout` seconds fails."""
        try:
            self.engine.stop(timeout)
        finally:
            self.metrics.engines.remove(self.engine)

    def stats(self) -> EngineStats:
        return self.engine.stats()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, somebody may submit requests: the engine must not be stopped."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    @property
    def idle(self) -> bool:
        """Whether nobody uses it and nobody is about to."""
        return not self._users and not self._submitted

    def submit(self, requests: Sequence[Request], *, probe: bool = False) -> SequenceEvents:
        """Admit `requests`, all of them or none, for the client of the HTTP request.

        Args:
            probe: jump the queue and its bound, and stay out of the metrics.

        Raises:
            Problem: 429 the queue is full, or the key's tokens are used up; 400 the key never has
                as many; 503 the engine stops or is dead.
            ContextLengthError, UsageError: a request is not possible.
        """
        context = REQUEST_CONTEXT.get()
        allowance = None if context is None or probe else context.allowance
        if context is not None:
            who, priority = context.client, context.priority
            requests = [replace(each, client=who, priority=priority) for each in requests]
        if allowance is not None:
            allowance.admit(requests)
        events = SequenceEvents(self, requests)
        try:
            self._submitted |= {request.id: events for request in requests}
            self.engine.submit(*requests, probe=probe)
        except BaseException as error:
            events.close()
            if allowance is not None:
                allowance.release(requests)
            if isinstance(error, QueueFull):
                raise queue_full(f"{error}; try again later") from error
            if isinstance(error, ShuttingDown):
                raise unavailable("draining", str(error)) from error
            raise
        if not probe:
            events.count(*self._described(requests[0]))
        return events

    async def in_groups(
        self, requests: Sequence[Request], size: int, deadline: float, *, begun: bool = False
    ) -> list[Event]:
        """The result of each of `requests`, which have one event each, `size` of them at once.

        Halfway through, others may fill the queue: what is done is not thrown away; this waits.

        Args:
            begun: whether something was done before these that would be thrown away.

        Raises:
            Problem: 429, the queue is full, and nothing is done yet; else as `submit`; 504.
        """
        found: list[Event] = []
        while len(found) < len(requests):
            group = requests[len(found) : len(found) + size]
            results: dict[int, Event] = {}
            try:
                with self.submit(group) as events:
                    async for index, event in events:
                        results[index] = event
            except Problem as problem:
                if problem.name != "queue-full" or not (found or begun):
                    raise
                if time.monotonic() >= deadline:
                    raise late("the request's time is over") from problem
                await asyncio.sleep(RETRY_SECONDS)
            else:
                found += [results[index] for index in range(len(group))]
        return found

    def forget(self, request_id: str, *, cancel: bool) -> None:
        """Deliver no more events of a request; `cancel` it if it has not ended."""
        if self._submitted.pop(request_id, None) is not None and cancel:
            self.engine.cancel(request_id)

    def fail_all(self, failed: Failed) -> None:
        """End every request now, without the engine."""
        for events in set(self._submitted.values()):
            events.fail(failed)

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
                with self.submit([self._probe()], probe=True) as events:
                    async for _ in events:
                        pass
                return True
        except Exception as error:
            logger.warning("the engine does not turn: %s", error or type(error).__name__)
            return False

    def _probe(self) -> Request:
        want = Generate(max_new_tokens=1, sampling=SamplingSettings(temperature=0))
        return Request(f"probe-{uuid.uuid4().hex}", (self._end_token,), want)

    def _described(self, request: Request) -> tuple[str, str, SequenceFigures]:
        """The task and the model of a request, as the metrics name them, and their figures."""
        info = self._models[request.adapter]
        tasks = {Embed: "embed", Score: "score"}
        task = tasks.get(type(request.want), info.task)
        return task, info.model, self.metrics.sequences.of(task, info.model)

    def _deliver(self, events: list[tuple[str, Event]]) -> None:
        """Called in the engine's thread, once a step."""
        # When the loop is closed, nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._distribute, events)

    def _distribute(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            waiting = self._submitted.get(request_id)
            if waiting is not None:
                waiting.put(request_id, event)
