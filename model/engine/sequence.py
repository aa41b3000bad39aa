"""A request while it is in the engine, and what a step computes of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from model.engine.blocks import BlockHash
from model.engine.constraints import Matcher
from model.engine.request import (
    Failed,
    Finished,
    FinishReason,
    Generate,
    Request,
    Score,
    Timings,
    TokenLogprob,
)
from model.engine.speculation import Lookup
from model.kv_cache import BLOCK_TOKENS
from model.sampling import Processor
from model.tokenizer import TextStream


@dataclass(eq=False)
class TokenSequence:
    """A request while it is in the engine, and all of its state.

    Times are on the clock of `time.monotonic`.
    """

    request: Request
    submitted: float
    adds_up: bool = False
    """Whether what is wanted needs the hidden state of every token."""
    submission: object = None
    """The same for those that were submitted together."""
    tokens: list[int] = field(init=False)
    """The prompt, then what was generated."""

    # The scheduler's.
    priority: int = field(init=False)
    """Those with a higher one go first."""
    running: bool = False
    """Whether it has its blocks. It has a part in the steps then, or pauses."""
    blocks: list[int] = field(default_factory=list)
    """Of the cache, for all of `tokens` while it is running."""
    block_hashes: list[BlockHash] = field(default_factory=list)
    """Of its full blocks, as far as they were asked for."""
    cached: int = 0
    """Tokens whose keys and values are in the cache."""
    reused: int = 0
    """How many of them were there already when it was first admitted."""
    admitted: float = 0.0
    lookup: Lookup = field(default_factory=Lookup)
    drafted: int = 0
    """Tokens of drafts that were computed for it."""
    accepted: int = 0
    """How many of them came, and spared a step."""
    stretch: int = 1
    """How many tokens were uncached after the last draw: that which was drawn, and those that its
    constraint forced behind it."""

    # The runner's.
    hidden_sum: Tensor | None = None
    """If it `adds_up`: the hidden states of the `cached` tokens; (n_embd,) fp64."""

    # The sampler's.
    text: TextStream | None = None
    draws: random.Random | None = None
    """Source of the uniform numbers that its tokens are drawn by."""
    processors: list[Processor] = field(default_factory=list)
    matcher: Matcher | None = None
    """Of the request's constraint, from its beginning on."""
    unsent: str = ""
    """Text that no event has brought yet."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the tokens whose text is unsent."""
    begun: bool = False
    """Whether it has what its constraint forces before the first draw."""
    pending: list[int] = field(default_factory=list)
    """Forced tokens that come in the place of drawn ones, since their log-probabilities are
    wanted."""
    expected: list[int] = field(default_factory=list)
    """What its constraint makes likely to come next: pending tokens, and the end of a forced
    stretch, which is left open."""
    forced: int = 0
    """Tokens that its constraint left no choice about."""
    ranks: list[int] = field(default_factory=list)
    """If it is to be scored: of the tokens in `logprobs`, which are those that are computed."""
    outcome: FinishReason | Failed | None = None
    """How it ends, if that is certain before its first draw."""
    first_result: float = 0.0
    last_token: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.tokens)
        self.priority = self.request.priority

    @property
    def prompt_length(self) -> int:
        return len(self.request.tokens)

    @property
    def generated(self) -> int:
        """How many tokens were generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def brief(self) -> bool:
        """Whether it ends with the step that computes its last token."""
        want = self.request.want
        return not isinstance(want, Generate) or want.max_new_tokens == 1

    @property
    def to_come(self) -> int:
        """The most tokens that are still to be generated."""
        want = self.request.want
        return want.max_new_tokens - self.generated if isinstance(want, Generate) else 0

    @property
    def uncached(self) -> int:
        """How many tokens are still to be computed: 1 in decode or with forced tokens a few more,
        in prefill as a rule many."""
        return len(self.tokens) - self.cached

    @property
    def decodes(self) -> bool:
        """Whether no more is left to be computed than came with the last draw. A prompt has one
        token left then, and who was preempted is back where it was."""
        return self.uncached <= self.stretch

    @property
    def reusable_blocks(self) -> int:
        """How many full blocks it may take over from others."""
        # The cache has no hidden states. The last token has to be computed in any case, since its
        # output is what is wanted.
        needs_all = self.adds_up or isinstance(self.request.want, Score)
        return 0 if needs_all else (len(self.tokens) - 1) // BLOCK_TOKENS

    def start_anew(self) -> None:
        """Forget what was found on the way through its tokens: all of them are computed again."""
        self.hidden_sum = None
        if isinstance(self.request.want, Score):
            self.logprobs.clear()
            self.ranks.clear()

    def timings(self, now: float) -> Timings:
        first = self.first_result or now
        return Timings(self.admitted - self.submitted, first - self.admitted, now - first)

    def finished(self, reason: FinishReason, held: int, now: float) -> Finished:
        """The last event of a generation.

        Args:
            held: tokens of the last draft that came and have a successor.
        """
        return Finished(
            reason,
            prompt_tokens=self.prompt_length,
            cached_tokens=self.reused,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted + held,
            forced_tokens=self.forced,
            completion_tokens=self.generated,
            timings=self.timings(now),
            stop_string=None if self.text is None else self.text.matched,
        )


@dataclass(frozen=True)
class Chunk:
    """The tokens of one sequence that are computed in one step."""

    sequence: TokenSequence
    start: int
    """How many tokens come before them: all of those are in the cache."""
    length: int
    """With the draft."""
    draft: Sequence[int] = ()
    """What may follow the sequence's last token, which is then in the chunk."""

    @property
    def blocks(self) -> list[int]:
        return self.sequence.blocks

    @property
    def end(self) -> int:
        """How many tokens of the sequence come before its draft."""
        return self.start + self.length - len(self.draft)

    @property
    def tokens(self) -> list[int]:
        return [*self.sequence.tokens[self.start : self.end], *self.draft]

    @property
    def came(self) -> int:
        """How many tokens its sequence has got since."""
        return len(self.sequence.tokens) - self.end

    @property
    def follows(self) -> bool:
        """Whether all of those are the next of the draft: what follows them is computed."""
        came = self.sequence.tokens[self.end :]
        return came == list(self.draft[: len(came)])

    @property
    def held(self) -> int:
        """How many tokens of the draft came and have a successor: they need not be computed."""
        came = self.sequence.tokens[self.end : -1]
        pairs = zip(self.draft, came, strict=False)
        wrong = (at for at, (drafted, token) in enumerate(pairs) if drafted != token)
        return next(wrong, min(len(self.draft), len(came)))

    @property
    def completes(self) -> bool:
        """Whether the last token is among them, whose output is what is wanted."""
        return self.end == len(self.sequence.tokens)
