"""Which tokens of which sequences are computed in the next step.

A step has a budget of tokens. Running sequences that decode come first, with one token each, so
that nobody's stream stalls; what is left goes to prompts, in the order of their arrival and in
chunks, so that a long prompt shares its steps with others.
"""

import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from model.engine.request import Generate, Request, Timings, TokenLogprob
from model.engine.text_stream import TextStream
from model.kv_cache import KVCache
from model.sampling import Processor


@dataclass(eq=False)
class Sequence:
    """A request while it is in the engine, and all of its state."""

    request: Request
    tokens: list[int]
    """The prompt, then what was generated."""
    submitted: float
    """On the clock of `time.monotonic`, as all times here."""
    text: TextStream | None = None
    draws: random.Random | None = None
    """Source of the uniform numbers of this request's tokens."""
    processors: list[Processor] = field(default_factory=list)
    slot: int = -1
    cached: int = 0
    """Tokens whose keys and values are in the cache."""
    admitted: float = 0.0
    first_result: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of tokens whose text has not been sent yet."""

    @property
    def prompt_length(self) -> int:
        return len(self.request.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def max_new_tokens(self) -> int:
        want = self.request.want
        return want.max_new_tokens if isinstance(want, Generate) else 0

    def timings(self, now: float) -> Timings:
        first = self.first_result or now
        return Timings(self.admitted - self.submitted, first - self.admitted, now - first)


@dataclass(frozen=True)
class Chunk:
    """The next `length` tokens of a sequence, computed in one step."""

    sequence: Sequence
    length: int

    @property
    def tokens(self) -> list[int]:
        start = self.sequence.cached
        return self.sequence.tokens[start : start + self.length]

    @property
    def completes(self) -> bool:
        """Whether the step reaches the sequence's last token, whose output is then needed."""
        return self.sequence.cached + self.length == len(self.sequence.tokens)


class Scheduler:
    """Admits sequences to cache slots and hands out the tokens of each step."""

    def __init__(self, cache: KVCache, step_tokens: int) -> None:
        assert step_tokens >= cache.slots, "every running sequence needs a token in every step"
        self.cache = cache
        self.step_tokens = step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence, *, first: bool = False) -> None:
        """Queue a sequence, at the head of the line if it is to be `first`."""
        if first:
            self.waiting.appendleft(sequence)
        else:
            self.waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step. Admits waiting sequences while slots and budget last."""
        budget = self.step_tokens
        chunks = []
        prefilling = []
        for sequence in self.running:
            if len(sequence.tokens) - sequence.cached == 1:
                chunks.append(Chunk(sequence, 1))
                budget -= 1
            else:
                prefilling.append(sequence)
        for sequence in chain(prefilling, self._admissions()):
            if budget == 0:
                break
            if sequence.slot < 0:
                self._admit(sequence)
            length = min(budget, len(sequence.tokens) - sequence.cached)
            chunks.append(Chunk(sequence, length))
            budget -= length
        return chunks

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and give its slot back."""
        if sequence.slot >= 0:
            self.running.remove(sequence)
            self.cache.release(sequence.slot)
            sequence.slot = -1
        else:
            self.waiting.remove(sequence)

    def _admissions(self) -> Iterator[Sequence]:
        """The head of the line, again and again, while a slot is free; the caller admits it."""
        while self.waiting and self.cache.free_slots:
            yield self.waiting[0]

    def _admit(self, sequence: Sequence) -> None:
        self.waiting.popleft()
        sequence.slot = self.cache.acquire()
        sequence.admitted = time.monotonic()
        self.running.append(sequence)
