"""Continuous batching: requests join and leave between the steps of one shared batch.

The engine owns one base, its adapters and their cache, and runs them in a thread of its own.
Callers hand in plain `Request`s from any thread and get plain events back through `deliver`, at
most once a step.

    engine = Engine(base, {"spam": adapter}, EngineSettings(), deliver)
    engine.start()
    engine.submit(Request("1", tokens, Generate(max_new_tokens=20)))

Training uses the same engine without the thread: `engine.run(requests)`.
"""

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from model.checkpoint import Adapter, Base
from model.engine.blocks import BlockPool
from model.engine.intake import Intake
from model.engine.request import Constraint, Event, Failed, FailureReason, Request, check, ends
from model.engine.runner import Runner
from model.engine.sampler import Sampler
from model.engine.scheduler import Scheduler
from model.engine.scoring import score
from model.engine.sequence import Chunk, TokenSequence
from model.engine.settings import EngineSettings, cache_dtype
from model.engine.speculation import Speculation
from model.engine.stats import EngineStats, Tally
from model.errors import PenwrightError
from model.kv_cache import KVCache

logger = logging.getLogger(__name__)

Events = list[tuple[str, Event]]
"""With the ids of their requests."""

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
        deliver: Callable[[Events], None],
    ) -> None:
        dtype = cache_dtype(base.model)
        blocks = settings.blocks(base.config, dtype)
        self.base = base
        self.settings = settings
        self.context_length = settings.context_length(base.config, dtype)
        """The most tokens of a sequence."""
        self._adapters = dict(adapters)
        self._deliver = deliver
        # The engine's thread alone changes these.
        self._cache = KVCache(base.config, blocks, dtype=dtype, device=base.model.device)
        self._pool = BlockPool(blocks, reuse=settings.reuse_prefixes)
        step_tokens = settings.tokens_of_step(base.model)
        self._runner = Runner(base, adapters, self._cache)
        self._speculation = Speculation() if settings.speculate and self._runner.exact else None
        self._sampler = Sampler(base, force_text=settings.force_text)
        self._scheduler = Scheduler(
            self._pool, settings.slots, step_tokens, self._speculation, self._sampler.begin
        )
        self._sequences: dict[str, TokenSequence] = {}
        self._tally = Tally()
        self._failures = 0  # steps that failed since the last that did not
        # What other threads ask of it: they leave errands, which it runs between two steps.
        self._errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._intake = Intake(settings.slots, settings.max_waiting)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stop_at = float("inf")

    # ---- for any thread ----

    def start(self) -> None:
        """Run in a thread of its own from now on."""
        assert self._thread is None, "the engine was started before"
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Take no more requests, finish those that were taken, and end the thread.

        What is not finished after `timeout` seconds fails with `shutdown`.
        """
        self._intake.refuse_more()
        self._stop_at = time.monotonic() + timeout
        self._stopping.set()
        self._errands.put(lambda: None)  # wakes the thread
        if self._thread is not None:
            self._thread.join(timeout + 10)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def prepare(self, constraint: Constraint, count: int = 1) -> None:
        """Check a constraint, and compile it for as many requests; this can take a second.

        Requests whose constraint was not prepared work as well, but others wait meanwhile, and a
        constraint that is meant to do harm does it.

        Raises:
            ConstraintError: it cannot be used.
            PenwrightError: it cannot be checked here, whatever it is.
        """
        self._sampler.constraints.prepare(constraint, count)

    def submit(self, *requests: Request, probe: bool = False) -> None:
        """Hand in requests, all of them or none. Their events come through `deliver`.

        Args:
            probe: go to the head of the line, whatever waits: for health checks.

        Raises:
            QueueFull: too many wait already.
            ShuttingDown: the engine stops, or is dead.
            ContextLengthError, UsageError: as of `check`.
            UsageError: an id that another request has, which has not ended.
        """
        self._submit(requests, first=probe, bounded=not probe)

    def cancel(self, request_id: str) -> None:
        """Drop a request wherever it is, before the next step. Nothing more is delivered for it."""
        self._errands.put(partial(self._drop, request_id))

    def stats(self) -> EngineStats:
        """Figures of this moment."""
        running, tally = len(self._scheduler.active), self._tally
        return EngineStats(
            running=running,
            waiting=max(0, len(self._intake) - running),
            paused=max(0, len(self._scheduler.running) - running),
            steps=tally.steps,
            slots=self.settings.slots,
            blocks=self._pool.blocks,
            free_blocks=self._pool.free,
            cache_bytes=self._cache.nbytes,
            preemptions=self._scheduler.preemptions,
            prompt_tokens=self._scheduler.prompt_tokens,
            cached_tokens=self._scheduler.cached_tokens,
            drafted_tokens=self._scheduler.drafted_tokens,
            accepted_tokens=self._scheduler.accepted_tokens,
            forced_tokens=self._sampler.forced_tokens,
            generated_tokens=tally.generated_tokens,
            step_seconds=tally.step_seconds.distribution(),
            step_sequences=tally.step_sequences.distribution(),
            step_tokens=tally.step_tokens.distribution(),
            token_gaps=tally.token_gaps.distribution(),
        )

    def run(self, requests: Iterable[Request]) -> list[list[Event]]:
        """Answer all of `requests` in the calling thread, without `start`.

        Returns:
            the events of each request, in order
        """
        assert self._thread is None, "the engine runs in its thread"
        requests = list(requests)
        self._submit(requests, bounded=False)
        self._run_errands(wait=False)
        events: dict[str, list[Event]] = defaultdict(list)
        while self._sequences:
            for request_id, event in self._step():
                events[request_id].append(event)
        return [events[request.id] for request in requests]

    def _submit(
        self, requests: Sequence[Request], *, first: bool = False, bounded: bool = True
    ) -> None:
        sequences, submission = [], object()
        for request in requests:
            check(request, self.base, self._adapters, self.context_length)
            adds_up = self._runner.adds_up(request)
            sequences.append(TokenSequence(request, time.monotonic(), adds_up, submission))
            self._sampler.prepare(sequences[-1])
        # Queued before others are taken or refused, so that none comes behind the last errand.
        then = partial(self._errands.put, partial(self._add, sequences, first=first))
        self._intake.take(requests, then, bounded=bounded)

    # ---- in the engine's thread ----

    def _serve(self) -> None:
        """The thread: step while there is work, and leave nobody waiting at the end."""
        reason: FailureReason = "internal"
        try:
            self._serve_until_stopped()
            reason = "shutdown"
        except Exception:
            logger.exception("the engine's thread died")
        finally:
            self._intake.refuse_more()
            self._run_errands(wait=False)
            left = list(self._sequences.values())
            self._deliver([self._fail(each, reason, "the engine has stopped") for each in left])

    def _serve_until_stopped(self) -> None:
        while True:
            self._run_errands(wait=not self._sequences and not self._stopping.is_set())
            late = time.monotonic() >= self._stop_at
            if self._stopping.is_set() and (late or not self._sequences):
                return
            events = self._step()
            if events:
                self._deliver(events)
            if self._failures >= _MOST_FAILURES:
                raise PenwrightError(f"{self._failures} steps in a row have failed")

    def _run_errands(self, *, wait: bool) -> None:
        """Do what other threads asked for; `wait` until they ask for something."""
        try:
            self._errands.get(block=wait)()
            while True:
                self._errands.get_nowait()()
        except queue.Empty:
            pass

    def _add(self, sequences: Sequence[TokenSequence], *, first: bool) -> None:
        for sequence in sequences:
            self._sequences[sequence.request.id] = sequence
            self._scheduler.add(sequence, first=first)

    def _drop(self, request_id: str) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is not None:  # else it has ended meanwhile
            self._remove(sequence)

    def _remove(self, sequence: TokenSequence, *, forget_blocks: bool = False) -> None:
        """Take a sequence out, for whatever reason."""
        del self._sequences[sequence.request.id]
        self._scheduler.remove(sequence, forget_blocks=forget_blocks)
        self._intake.release(sequence.request)

    def _step(self) -> Events:
        """Expire, schedule, compute and sample once."""
        events = self._expire()
        chunks = self._scheduler.schedule()
        assert chunks or not self._sequences, "sequences wait and nothing is scheduled"
        if not chunks:
            return events
        started = time.monotonic()
        try:
            output = self._runner.run(chunks)
            self._scheduler.computed(chunks)
            # Who has a result keeps it, should the drawing of others fail.
            events += self._settle(output.results)
            events += self._settle(score(self.base, output.scoring))
            if output.generating:
                drawn = self._sampler.draw_chunks(output.generating, output.logits)
                self._scheduler.drawn(output.generating)
                self._count(output.generating)
                events += self._settle(drawn)
            self._failures = 0
        except Exception as error:
            self._failures += 1
            logger.exception("a step failed")
            for chunk in chunks:
                if chunk.sequence.request.id in self._sequences:
                    message = f"the step failed: {type(error).__name__}"
                    events.append(self._fail(chunk.sequence, "internal", message))
        seconds = time.monotonic() - started
        self._tally.step([chunk.length for chunk in chunks], seconds)
        self._scheduler.prompts.observe(chunks, seconds)
        return events

    def _expire(self) -> Events:
        now = time.monotonic()
        return [
            self._fail(sequence, "deadline", "the request's time is over")
            for sequence in list(self._sequences.values())
            if sequence.request.deadline is not None and now >= sequence.request.deadline
        ]

    def _settle(
        self, outcomes: Iterable[tuple[TokenSequence, list[Event]]]
    ) -> Iterator[tuple[str, Event]]:
        """The events of each sequence, by its request; a sequence that has ended is removed."""
        for sequence, events in outcomes:
            if ends(events):
                failed = isinstance(events[-1], Failed) and events[-1].reason == "internal"
                self._remove(sequence, forget_blocks=failed)
            for event in events:
                yield sequence.request.id, event

    def _fail(
        self, sequence: TokenSequence, reason: FailureReason, message: str
    ) -> tuple[str, Event]:
        self._remove(sequence)
        return sequence.request.id, Failed(reason, message)

    def _count(self, chunks: Sequence[Chunk]) -> None:
        """Each sequence of `chunks` got a token, or several behind a draft or because they were
        forced, all of them now."""
        now = time.monotonic()
        last: list[float] = []
        for chunk in chunks:
            sequence = chunk.sequence
            # What was forced before the first draw came with it.
            new = chunk.came if sequence.last_token else sequence.generated
            last += [sequence.last_token, *[now] * (new - 1)][:new]
            sequence.last_token = now
        self._tally.tokens(last, now)
