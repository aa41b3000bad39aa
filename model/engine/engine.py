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
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from model.checkpoint import Adapter, Base
from model.engine.batch import Batch, Events
from model.engine.checks import check
from model.engine.inbox import Inbox, wake
from model.engine.request import Constraint, EngineStats, Event, FailureReason, Request
from model.engine.settings import EngineSettings, cache_dtype
from model.errors import PenwrightError

logger = logging.getLogger(__name__)

Deliver = Callable[[Events], None]

_MOST_FAILURES = 10
"""Steps that may fail in a row before the engine gives up: a device can be lost for good."""


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
        self.base = base
        self.settings = settings
        self.context_length = settings.context_length(base.config, cache_dtype(base.model))
        """The most tokens of a sequence."""
        self._adapters = dict(adapters)
        self._inbox = Inbox(settings)
        self._batch = Batch(base, adapters, settings, ended=self._inbox.ended)
        self._deliver = deliver
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
        self._inbox.close()
        self._stop_at = time.monotonic() + timeout
        self._stopping.set()
        self._inbox.put(wake)
        if self._thread is not None:
            self._thread.join(timeout + 10)

    @property
    def alive(self) -> bool:
        """Whether the thread turns."""
        return self._thread is not None and self._thread.is_alive()

    def prepare(self, constraint: Constraint, count: int = 1) -> None:
        """Check a constraint, and compile it for as many requests; this can take a second.

        Requests whose constraint was not prepared work as well, but others wait meanwhile; and one
        that is there to do harm does it.

        Raises:
            ConstraintError: it cannot be used.
        """
        self._batch.constraints.prepare(constraint, count)

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
        self._admit(requests, probe=probe, bounded=not probe)

    def cancel(self, request_id: str) -> None:
        """Drop a request wherever it is, before the next step. Nothing more is delivered for it."""
        self._inbox.put(partial(self._batch.leave, request_id))

    def stats(self) -> EngineStats:
        """Figures of this moment."""
        return self._batch.stats(held=self._inbox.held)

    def run(self, requests: Iterable[Request]) -> list[list[Event]]:
        """Answer all of `requests` in the calling thread, without `start`.

        Returns:
            the events of each request, in order
        """
        assert self._thread is None, "the engine turns in its thread"
        requests = list(requests)
        self._admit(requests, bounded=False)
        self._inbox.empty(wait=False)
        events: dict[str, list[Event]] = defaultdict(list)
        while self._batch:
            for request_id, event in self._batch.step():
                events[request_id].append(event)
        return [events[request.id] for request in requests]

    def _admit(
        self, requests: Sequence[Request], *, probe: bool = False, bounded: bool = True
    ) -> None:
        for request in requests:
            check(request, self.base, self._adapters, self.context_length)
        submitted = time.monotonic()
        enter = partial(self._batch.enter, requests, submitted, first=probe)
        self._inbox.admit(len(requests), enter, bounded=bounded)

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
            self._inbox.close()
            self._inbox.empty(wait=False)
            self._deliver(self._batch.fail_all(reason, "the engine has stopped"))

    def _turn_until_stopped(self) -> None:
        while True:
            self._inbox.empty(wait=not self._batch and not self._stopping.is_set())
            if self._stopping.is_set() and (not self._batch or time.monotonic() >= self._stop_at):
                return
            events = self._batch.step()
            if events:
                self._deliver(events)
            if self._batch.failures >= _MOST_FAILURES:
                raise PenwrightError(f"{self._batch.failures} steps in a row have failed")
