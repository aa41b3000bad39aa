"""The shared batch: all sequences that the engine has, and its steps.

Used by one thread, other than `stats` and `constraints`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from model.checkpoint import Adapter, Base
from model.engine.blocks import BlockPool
from model.engine.constraints import Constraints
from model.engine.request import EngineStats, Event, Failed, FailureReason, Request, Text
from model.engine.results import results
from model.engine.runner import Runner
from model.engine.sampler import Sampler
from model.engine.scheduler import Scheduler, Sequence
from model.engine.settings import EngineSettings, cache_dtype
from model.engine.tally import Tally
from model.kv_cache import KVCache

logger = logging.getLogger(__name__)

Events = list[tuple[str, Event]]
"""With the ids of their requests."""


class Batch:
    """The sequences of one base and its adapters, with their cache.

    Args:
        base, adapters, settings: as of `Engine`.
        ended: called for each sequence that goes, for whatever reason.
    """

    def __init__(
        self,
        base: Base,
        adapters: Mapping[str, Adapter],
        settings: EngineSettings,
        ended: Callable[[], None],
    ) -> None:
        model, dtype = base.model, cache_dtype(base.model)
        blocks = settings.blocks(base.config, dtype)
        self.failures = 0
        """Steps that failed since the last that did not."""
        self._ended = ended
        self._slots = settings.slots
        self._cache = KVCache(base.config, blocks, dtype=dtype, device=model.device)
        self._pool = BlockPool(blocks, reuse=settings.reuse_prefixes)
        self._runner = Runner(base, adapters, self._cache)
        self._sampler = Sampler(base)
        self._scheduler = Scheduler(self._pool, settings.slots, settings.tokens_of_step(model))
        self._sequences: dict[str, Sequence] = {}
        self._tally = Tally()

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self._sequences)

    @property
    def constraints(self) -> Constraints:
        return self._sampler.constraints

    def enter(self, requests: Iterable[Request], submitted: float, *, first: bool) -> None:
        """Queue `requests`, at the head of the line if they are to be `first`.

        Args:
            submitted: when that was, on the clock of `time.monotonic`.
        """
        for request in requests:
            assert request.id not in self._sequences, f"request id {request.id} is in use"
            sequence = Sequence(request, list(request.tokens), submitted)
            self._sampler.prepare(sequence)
            self._sequences[request.id] = sequence
            self._scheduler.add(sequence, first=first)

    def leave(self, request_id: str) -> None:
        """Drop a request wherever it is."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:  # else it has ended meanwhile
            self._remove(sequence)

    def step(self) -> Events:
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
            # What has its result keeps it, should the drawing of others fail.
            events += self._settle(results(output, time.monotonic()))
            if output.generating:
                drawn = self._sampler.draw(output.generating, output.logits)
                self._tally.drawn((sequence for sequence, _ in drawn), time.monotonic())
                events += self._settle(drawn)
            self.failures = 0
        except Exception as error:
            self.failures += 1
            logger.exception("a step failed")
            for chunk in chunks:
                if chunk.sequence.request.id in self._sequences:
                    message = f"the step failed: {type(error).__name__}"
                    events.append(self._fail(chunk.sequence, "internal", message))
        self._tally.step(chunks, time.monotonic() - started)
        return events

    def fail_all(self, reason: FailureReason, message: str) -> Events:
        """Give up all requests."""
        return [self._fail(s, reason, message) for s in list(self._sequences.values())]

    def stats(self, held: int) -> EngineStats:
        """Figures of this moment, for any thread.

        Args:
            held: requests that were admitted and have not ended.
        """
        running, tally = len(self._scheduler.running), self._tally
        return EngineStats(
            running=running,
            waiting=max(0, held - running),
            steps=tally.steps,
            slots=self._slots,
            blocks=self._pool.blocks,
            free_blocks=self._pool.free,
            cache_bytes=self._cache.nbytes,
            preemptions=self._scheduler.preemptions,
            prompt_tokens=self._scheduler.prompt_tokens,
            cached_tokens=self._scheduler.cached_tokens,
            generated_tokens=tally.generated_tokens,
            step_seconds=tally.step_seconds.distribution(),
            step_sequences=tally.step_sequences.distribution(),
            step_tokens=tally.step_tokens.distribution(),
            token_gaps=tally.token_gaps.distribution(),
        )

    def _settle(self, new: Iterable[tuple[Sequence, list[Event]]]) -> Iterator[tuple[str, Event]]:
        """The events of each sequence, by its request; a sequence that has ended goes."""
        for sequence, events in new:
            if events and not isinstance(events[-1], Text):
                failed = isinstance(events[-1], Failed) and events[-1].reason == "internal"
                self._remove(sequence, spoilt=failed)
            for event in events:
                yield sequence.request.id, event

    def _remove(self, sequence: Sequence, *, spoilt: bool = False) -> None:
        del self._sequences[sequence.request.id]
        self._scheduler.finish(sequence, spoilt=spoilt)
        self._ended()

    def _expire(self) -> Events:
        now = time.monotonic()
        return [
            self._fail(sequence, "deadline", "the request's time is over")
            for sequence in list(self._sequences.values())
            if sequence.request.deadline is not None and now >= sequence.request.deadline
        ]

    def _fail(self, sequence: Sequence, reason: FailureReason, message: str) -> tuple[str, Event]:
        self._remove(sequence)
        return sequence.request.id, Failed(reason, message)
