"""Continuous batching: requests join and leave between the steps of one shared batch.

The engine owns one base, its adapters and their cache, and turns them in a thread of its own.
Callers hand in plain `Request`s from any thread and get plain events back through `deliver`, once
a step at most.

    engine = Engine(base, {"spam": adapter}, EngineSettings(), deliver)
    engine.start()
    engine.submit(Request("1", tokens, Generate(max_new_tokens=20)))

Training uses the same engine without the thread: `engine.run(requests)`.
"""

import logging
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from model.checkpoint import Adapter, Base
from model.engine.blocks import BlockPool
from model.engine.request import (
    Classified,
    Classify,
    Embed,
    EngineStats,
    Event,
    Failed,
    FailureReason,
    Request,
    Text,
)
from model.engine.runner import Runner
from model.engine.sampler import Sampler
from model.engine.scheduler import Chunk, Scheduler, Sequence
from model.engine.settings import EngineSettings, cache_dtype
from model.errors import ContextLengthError, PenwrightError, UsageError
from model.kv_cache import KVCache

logger = logging.getLogger(__name__)

Deliver = Callable[[list[tuple[str, Event]]], None]


class QueueFull(PenwrightError):
    """As many requests wait as may."""


class ShuttingDown(PenwrightError):
    """The engine takes no more requests."""


class Engine:
    """One base and its adapters, serving many requests at once.

    Args:
        base: the network; on the device and in the dtype in which it is to run.
        adapters: of this base, by the name that requests use.
        deliver: takes (request id, event) pairs; called from the engine's thread, must not block.
    """

    def __init__(
        self,
        base: Base,
        adapters: Mapping[str, Adapter],
        settings: EngineSettings,
        deliver: Deliver,
    ) -> None:
        model = base.model
        dtype = cache_dtype(model)
        blocks = settings.blocks(base.config, dtype)
        self.base = base
        self.settings = settings
        self._cache = KVCache(base.config, blocks, dtype=dtype, device=model.device)
        self._pool = BlockPool(blocks, reuse=settings.reuse_prefixes)
        self._runner = Runner(base, adapters, self._cache)
        self._sampler = Sampler(base)
        self._scheduler = Scheduler(self._pool, settings.slots, settings.tokens_of_step(model))
        self._deliver = deliver
        self._sequences: dict[str, Sequence] = {}
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held = 0  # requests taken and not ended, running or not; under the lock
        self._accepting = True  # under the lock
        self._steps = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stop_at = float("inf")

    # ---- from any thread ----

    def start(self) -> None:
        """Turn in a thread of its own from now on."""
        assert self._thread is None, "the engine was started before"
        self._thread = threading.Thread(target=self._turn, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Take no more requests, finish those admitted, and end the thread.

        What is not finished after `timeout` seconds fails with `shutdown`.
        """
        with self._lock:
            self._accepting = False
        self._stop_at = time.monotonic() + timeout
        self._stopping.set()
        self._inbox.put(_nothing)
        if self._thread is not None:
            self._thread.join(timeout + 10)

    @property
    def alive(self) -> bool:
        """Whether the thread turns."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, *requests: Request, probe: bool = False) -> None:
        """Hand in requests, all of them or none. Their events come through `deliver`.

        Args:
            probe: go to the head of the line, whatever waits: for health checks.

        Raises:
            QueueFull: too many wait already.
            ShuttingDown: the engine stops, or is dead.
            ContextLengthError: the tokens, with those to come, exceed the context.
            UsageError: an adapter that is not there, or cannot do what is wanted; no tokens.
        """
        for request in requests:
            self._check(request)
        with self._lock:
            if not self._accepting:
                raise ShuttingDown("the engine is shutting down")
            waiting = max(0, self._held - self.settings.slots)
            room = self.settings.slots + self.settings.max_waiting - self._held
            if len(requests) > room and not probe:
                raise QueueFull(
                    f"{waiting} requests are waiting already, of {self.settings.max_waiting}; "
                    f"there is no room for {len(requests)} more"
                )
            self._held += len(requests)
            submitted = time.monotonic()
            self._inbox.put(lambda: self._enter(requests, submitted, first=probe))

    def cancel(self, request_id: str) -> None:
        """Drop a request wherever it is, before the next step. Nothing more is delivered for it."""
        self._inbox.put(lambda: self._leave(request_id))

    def stats(self) -> EngineStats:
        """Figures of this moment."""
        running = len(self._scheduler.running)
        return EngineStats(
            running=running,
            waiting=max(0, self._held - running),
            steps=self._steps,
            slots=self.settings.slots,
            blocks=self._pool.blocks,
            free_blocks=self._pool.free,
            cache_bytes=self._cache.nbytes,
            preemptions=self._scheduler.preemptions,
            prompt_tokens=self._scheduler.prompt_tokens,
            cached_tokens=self._scheduler.cached_tokens,
        )

    def run(self, requests: Iterable[Request]) -> list[list[Event]]:
        """Answer all of `requests` in the calling thread, without `start`.

        Returns:
            the events of each request, in order
        """
        assert self._thread is None, "the engine turns in its thread"
        requests = list(requests)
        for request in requests:
            self._check(request)
        self._held += len(requests)
        self._enter(requests, time.monotonic(), first=False)
        events: dict[str, list[Event]] = defaultdict(list)
        while self._sequences:
            for request_id, event in self._step():
                events[request_id].append(event)
        return [events[request.id] for request in requests]

    # ---- in the engine's thread ----

    def _turn(self) -> None:
        """The thread: step while there is work, and leave nobody waiting when it ends."""
        reason: FailureReason = "internal"
        try:
            self._turn_until_stopped()
            reason = "shutdown"
        except Exception:
            logger.exception("the engine's thread died")
        finally:
            with self._lock:
                self._accepting = False
            self._take_inbox(wait=False)
            self._deliver(self._fail_all(reason, "the engine has stopped"))

    def _turn_until_stopped(self) -> None:
        while True:
            self._take_inbox(wait=not self._sequences and not self._stopping.is_set())
            if self._stopping.is_set() and (
                not self._sequences or time.monotonic() >= self._stop_at
            ):
                return
            events = self._step()
            if events:
                self._deliver(events)

    def _take_inbox(self, *, wait: bool) -> None:
        """Do what other threads asked for; `wait` for it if there is nothing else to do."""
        try:
            self._inbox.get(block=wait)()
            while True:
                self._inbox.get_nowait()()
        except queue.Empty:
            pass

    def _step(self) -> list[tuple[str, Event]]:
        """Expire, schedule, compute and sample once."""
        events = self._expire()
        chunks = self._scheduler.schedule()
        assert chunks or not self._sequences, "sequences wait and nothing is scheduled"
        if not chunks:
            return events
        try:
            output = self._runner.run(chunks)
            self._scheduler.computed(chunks)
            events += self._classify(output.classified)
            if output.generating:
                for sequence, new in self._sampler.draw(output.generating, output.logits):
                    if new and not isinstance(new[-1], Text):
                        self._remove(sequence, spoilt=isinstance(new[-1], Failed))
                    events += [(sequence.request.id, event) for event in new]
        except Exception as error:
            logger.exception("a step failed")
            for chunk in chunks:
                if chunk.sequence.request.id in self._sequences:
                    message = f"the step failed: {type(error).__name__}"
                    events.append(self._fail(chunk.sequence, "internal", message))
        self._steps += 1
        return events

    def _classify(
        self, classified: list[tuple[Chunk, tuple[float, ...], tuple[float, ...]]]
    ) -> list[tuple[str, Event]]:
        events: list[tuple[str, Event]] = []
        now = time.monotonic()
        for chunk, probabilities, logits in classified:
            sequence = chunk.sequence
            sequence.first_result = now
            broken = any(map(math.isnan, probabilities))
            self._remove(sequence, spoilt=broken)
            event: Event = Classified(
                probabilities,
                logits,
                sequence.prompt_length,
                sequence.reused,
                sequence.timings(now),
            )
            if broken:
                event = Failed("internal", "the network gave no usable probabilities")
            events.append((sequence.request.id, event))
        return events

    # ---- entering and leaving ----

    def _check(self, request: Request) -> None:
        adapters, want = self._runner.adapters, request.want
        if request.adapter is not None and request.adapter not in adapters:
            raise UsageError(f"no adapter {request.adapter!r}; there are {sorted(adapters)}")
        if not request.tokens:
            raise UsageError("a request needs at least one token")
        if isinstance(want, Classify):
            head = adapters[request.adapter].head if request.adapter else self.base.head
            if head is None:
                raise UsageError(f"{request.adapter or 'the base'} has no classification head")
            new = 0
        elif isinstance(want, Embed):
            new = 0
        else:
            if want.max_new_tokens < 1:
                raise UsageError(f"max_new_tokens is {want.max_new_tokens}; it must be at least 1")
            new = want.max_new_tokens
        if len(request.tokens) + new > self.base.config.context_length:
            raise ContextLengthError(len(request.tokens) + new, self.base.config.context_length)

    def _enter(self, requests: Iterable[Request], submitted: float, *, first: bool) -> None:
        for request in requests:
            assert request.id not in self._sequences, f"request id {request.id} is in use"
            sequence = Sequence(request, list(request.tokens), submitted)
            self._sampler.prepare(sequence)
            self._sequences[request.id] = sequence
            self._scheduler.add(sequence, first=first)

    def _leave(self, request_id: str) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is not None:  # else it has ended meanwhile
            self._remove(sequence)

    def _remove(self, sequence: Sequence, *, spoilt: bool = False) -> None:
        del self._sequences[sequence.request.id]
        self._scheduler.finish(sequence, spoilt=spoilt)
        with self._lock:
            self._held -= 1

    def _expire(self) -> list[tuple[str, Event]]:
        now = time.monotonic()
        return [
            self._fail(sequence, "deadline", "the request's time is over")
            for sequence in list(self._sequences.values())
            if sequence.request.deadline is not None and now >= sequence.request.deadline
        ]

    def _fail(self, sequence: Sequence, reason: FailureReason, message: str) -> tuple[str, Event]:
        self._remove(sequence)
        return sequence.request.id, Failed(reason, message)

    def _fail_all(self, reason: FailureReason, message: str) -> list[tuple[str, Event]]:
        return [self._fail(s, reason, message) for s in list(self._sequences.values())]


def _nothing() -> None:
    """Wakes the thread."""
