"""Which tokens of which sequences are computed in the next step.

A step has a budget of tokens. Running sequences that decode come first, with one token each, so
that nobody's stream stalls. What is left goes to prompts: a quarter of it to the prompt that came
first, so that none waits for ever, the rest to those that need least, as a whole where it fits: a
short prompt does not wait for the long ones before it. A long prompt goes in such small chunks as
long as others come and go; it gets whole steps when it has been alone for a second.

A sequence enters when a slot and blocks for all of its tokens are free, in the order of arrival.
It takes over what another sequence with the same beginning has in the cache, and waits a little if
that is being computed right now. When a running sequence needs a block and there is none, the one
that entered last gives its blocks back and returns to the head of the line. Later it computes its
tokens anew, and goes on as if nothing had been.
"""

import random
import time
from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from model.engine.blocks import BlockPool, Content, contents, root
from model.engine.constraints import Matcher
from model.engine.request import Embed, Request, Timings, TokenLogprob
from model.engine.text_stream import TextStream
from model.kv_cache import BLOCK_TOKENS, blocks_for
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
    matcher: Matcher | None = None
    """Of the request's constraint, from the first drawn token on."""
    running: bool = False
    """Whether it has its blocks, and a part in the steps."""
    blocks: list[int] = field(default_factory=list)
    """Of the cache, for all of `tokens` while it is running."""
    cached: int = 0
    """Tokens whose keys and values are in the cache."""
    reused: int = 0
    """How many of them were there before, when it was first admitted."""
    contents: list[Content] = field(default_factory=list)
    """Of its full blocks, as far as they were asked for."""
    admitted: float = 0.0
    first_result: float = 0.0
    last_token: float = 0.0
    unsent: str = ""
    """Text that no event has brought yet."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of tokens whose text has not been sent yet."""
    hidden_sum: Tensor | None = None
    """Of an embedding: the hidden states of the `cached` tokens, added up; (n_embd,) fp32."""

    @property
    def prompt_length(self) -> int:
        return len(self.request.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def left(self) -> int:
        """Tokens that are not in the cache: 1 when it decodes."""
        return len(self.tokens) - self.cached

    @property
    def reusable(self) -> int:
        """How many full blocks it may take over from others."""
        # An embedding needs every token's hidden state, which the cache does not have; of others,
        # at least one token has to be computed: its output is what is wanted.
        embeds = isinstance(self.request.want, Embed)
        return 0 if embeds else (len(self.tokens) - 1) // BLOCK_TOKENS

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


_CALM = 1.0
"""Seconds without another request after which a long prompt is given whole steps."""


class Scheduler:
    """Admits sequences, finds room for them in the cache and hands out the tokens of each step.

    Args:
        pool: the blocks of the cache; enough for one sequence of a full context.
        slots: sequences that run at once.
        step_tokens: largest number of tokens in a step; at least `slots`.
    """

    def __init__(self, pool: BlockPool, slots: int, step_tokens: int) -> None:
        assert step_tokens >= slots, "every running sequence needs a token in every step"
        self.pool = pool
        self.slots = slots
        self.step_tokens = step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """In the order in which they were admitted."""
        self.preemptions = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self._promised: set[Content] = set()  # contents that running sequences will compute
        self._shared = float("-inf")  # when a sequence last came while others were there

    def add(self, sequence: Sequence, *, first: bool = False) -> None:
        """Queue a sequence, at the head of the line if it is to be `first`."""
        if first:
            self.waiting.appendleft(sequence)
        else:
            self.waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step."""
        self._grow()
        self._admit()
        decoding = [sequence for sequence in self.running if sequence.left == 1]
        prompts = [sequence for sequence in self.running if sequence.left > 1]
        chunks = [Chunk(sequence, 1) for sequence in decoding]
        budget = self.step_tokens - len(decoding)
        return chunks + _share(prompts, budget, self._chunk(prompts, budget))

    def computed(self, chunks: list[Chunk]) -> None:
        """The step of `chunks` is done: their keys and values are in the cache."""
        for chunk in chunks:
            sequence = chunk.sequence
            before = sequence.cached // BLOCK_TOKENS
            sequence.cached += chunk.length
            after = sequence.cached // BLOCK_TOKENS
            if after > before and self.pool.reuse:
                known = self._contents(sequence)
                for index in range(before, after):
                    self.pool.remember(sequence.blocks[index], known[index])
                    self._promised.discard(known[index])

    def finish(self, sequence: Sequence, *, spoilt: bool = False) -> None:
        """Take a sequence out, wherever it is, and give its blocks back.

        Args:
            spoilt: nobody is to use what it computed.
        """
        if not sequence.running:
            self.waiting.remove(sequence)
            return
        if spoilt:
            self.pool.forget(sequence.blocks)
        self._stop(sequence)

    def _chunk(self, prompts: list[Sequence], budget: int) -> int:
        """What a long prompt gets of a step: all of it, unless others come and go meanwhile."""
        if len(prompts) == 1 and time.monotonic() - self._shared > _CALM:
            return budget
        return max(1, budget // 4)

    def _grow(self) -> None:
        """Give each running sequence room for its tokens, the first admitted first."""
        for sequence in list(self.running):
            while sequence.running and len(sequence.blocks) < blocks_for(len(sequence.tokens)):
                if self.pool.free:
                    sequence.blocks.append(self.pool.take())
                else:
                    self._preempt(self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence.blocks)
        self._promised.difference_update(sequence.contents[sequence.cached // BLOCK_TOKENS :])
        sequence.running = False
        sequence.blocks = []
        sequence.cached = 0
        sequence.hidden_sum = None

    def _admit(self) -> None:
        """Let waiting sequences in while there is room."""
        for sequence in list(self.waiting):
            if len(self.running) == self.slots:
                return
            known = self._contents(sequence) if self.pool.reuse else []
            found = self.pool.find(known[: sequence.reusable])
            if len(found) < sequence.reusable and known and known[len(found)] in self._promised:
                continue  # others may pass; it costs less to wait than to compute it twice
            new = blocks_for(len(sequence.tokens)) - len(found)
            # A block for each that runs, lest the newcomer is sent away again at once.
            spare = len(self.running)
            if self.pool.free - self.pool.idle(found) < new + spare and self.running:
                return
            self._enter(sequence, found, new)

    def _enter(self, sequence: Sequence, found: list[int], new: int) -> None:
        self.waiting.remove(sequence)
        if self.running:
            self._shared = time.monotonic()
        self.pool.share(found)
        sequence.blocks = found + [self.pool.take() for _ in range(new)]
        sequence.cached = len(found) * BLOCK_TOKENS
        self._promised.update(sequence.contents[len(found) :])
        sequence.running = True
        self.running.append(sequence)
        if not sequence.admitted:
            sequence.admitted = time.monotonic()
            sequence.reused = sequence.cached
            self.prompt_tokens += sequence.prompt_length
            self.cached_tokens += sequence.cached

    def _contents(self, sequence: Sequence) -> list[Content]:
        """The contents of all full blocks of `sequence`."""
        known = sequence.contents
        parent = known[-1] if known else root(sequence.request.adapter)
        known += contents(parent, sequence.tokens[len(known) * BLOCK_TOKENS :])
        return known


def _share(prompts: list[Sequence], budget: int, chunk: int) -> list[Chunk]:
    """Divide `budget` tokens among `prompts`, of which the first has waited longest.

    Args:
        chunk: what a prompt gets that does not fit as a whole.
    """
    if not prompts or budget < 1:
        return []
    lengths: dict[int, int] = {}
    for sequence in [prompts[0], *sorted(prompts[1:], key=lambda sequence: sequence.left)]:
        fits = sequence.left <= (budget if lengths else budget // 2)
        lengths[id(sequence)] = min(sequence.left if fits else chunk, budget, sequence.left)
        budget -= lengths[id(sequence)]
    return [Chunk(s, lengths[id(s)]) for s in prompts if lengths[id(s)]]
