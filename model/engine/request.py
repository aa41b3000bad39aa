"""What goes into the engine and what comes out of it: plain data, no tensor, module or lock.

A `Request` goes in, if `check` has nothing against it. Events come out, in order: any number of
`Text`, then one `Finished`; or one `Classified`, `Embedded` or `Scored`; or at any point one
`Failed`, after which nothing follows.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from model.checkpoint import Adapter, Base
from model.errors import ContextLengthError, UsageError
from model.sampling import SamplingSettings

FinishReason = Literal["stop", "length", "eos"]
"""A stop string appeared, or the text is all that its constraint asks for and nothing can follow;
`max_new_tokens` or the context was reached; the end token was drawn."""

HIGHEST_PRIORITY = 9

FailureReason = Literal["deadline", "cancelled", "shutdown", "internal", "constraint"]
"""`constraint`: it turned out too complex on the way."""


@dataclass(frozen=True)
class Constraint:
    """What a generated text must be: as a whole, to its end."""

    kind: Literal["json_schema", "regex", "choice", "call"]
    value: str
    """The schema as JSON; the regular expression; the choices as a JSON list of strings.

    Of a call, a JSON object: the schemas of the `tools` by their names; how a call is written, what
    is `before` the name, `between` it and the arguments, and `after` these; and the `mark` that a
    call, and no other text, begins with (which `before` does), or null where the text must be a
    call. If it `follows_text`, a text that does not have the mark may come before it."""


@dataclass(frozen=True)
class Generate:
    """Continue the tokens."""

    max_new_tokens: int
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not part of it."""
    ignore_eos: bool = False
    """Go on after the end token, up to `max_new_tokens`."""
    logprobs: int | None = None
    """Report each token's log-probability and those of this many most probable tokens."""
    stream: bool = True
    """Give each piece of text when it is made; else all of it at the end, as one `Text`."""
    constraint: Constraint | None = None
    """Draw only tokens with which the text can still become what this asks for; the end token only
    when it has. Where `max_new_tokens` or a stop string ends it earlier, it is just a beginning."""


@dataclass(frozen=True)
class Classify:
    """Say which label the tokens have."""


@dataclass(frozen=True)
class Embed:
    """Give the mean of the hidden states of all tokens."""


@dataclass(frozen=True)
class Score:
    """Give the log-probability of each token but the first, after those before it."""

    top: int = 0
    """Report those of this many most probable tokens, too."""


@dataclass(frozen=True)
class Request:
    """One sequence and what is wanted of it."""

    id: str
    """Chosen by the caller; unique among the requests in the engine."""
    tokens: tuple[int, ...]
    """At least one; with `max_new_tokens` at most the context length."""
    want: Generate | Classify | Embed | Score
    adapter: str | None = None
    """Name of an adapter that the engine was given; None is the base alone."""
    deadline: float | None = None
    """On the clock of `time.monotonic`; past it the request fails with `deadline`."""
    client: str = ""
    """Who asks. Clients share the engine evenly."""
    priority: int = 0
    """0 to `HIGHEST_PRIORITY`; all of a higher one go before all of a lower one."""


def check(
    request: Request, base: Base, adapters: Mapping[str, Adapter], context_length: int
) -> None:
    """Refuse what an engine of `base` and `adapters` cannot do.

    Args:
        context_length: the most tokens of a sequence.

    Raises:
        ContextLengthError: the tokens, with those to come, exceed the context.
        UsageError: an adapter that is not there, or cannot do what is wanted; no tokens, or one
            that is not in the vocabulary; another field has a value that is not allowed.
    """
    want, vocab = request.want, base.tokenizer.vocab_size
    if request.adapter is not None and request.adapter not in adapters:
        raise UsageError(f"no adapter {request.adapter!r}; there are {sorted(adapters)}")
    if not request.tokens:
        raise UsageError("a request needs at least one token")
    _check_ids("tokens", request.tokens, vocab)
    if request.deadline is not None and math.isnan(request.deadline):
        raise UsageError("deadline is not a number; it must be a time of time.monotonic")
    if not 0 <= request.priority <= HIGHEST_PRIORITY:
        raise UsageError(f"priority is {request.priority}; it must be 0 to {HIGHEST_PRIORITY}")
    if isinstance(want, Classify):
        head = adapters[request.adapter].head if request.adapter else base.head
        if head is None:
            raise UsageError(f"{request.adapter or 'the base'} has no classification head")
    if isinstance(want, Score) and want.top < 0:
        raise UsageError(f"top is {want.top}; it must be at least 0")
    length = len(request.tokens)
    if isinstance(want, Generate):
        if want.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {want.max_new_tokens}; it must be at least 1")
        if want.logprobs is not None and want.logprobs < 0:
            raise UsageError(f"logprobs is {want.logprobs}; it must be at least 0")
        _check_ids("logit_bias", [token for token, _ in want.sampling.logit_bias], vocab)
        if want.constraint is not None and want.ignore_eos:
            raise UsageError("ignore_eos and a constraint, which says where a text ends")
        length += want.max_new_tokens
    if length > context_length:
        raise ContextLengthError(length, context_length)


def _check_ids(field: str, ids: Sequence[int], vocab: int) -> None:
    # The smallest and the largest stand for all: a prompt can have a hundred thousand.
    for token in (min(ids), max(ids)) if ids else ():
        if not 0 <= token < vocab:
            raise UsageError(f"{field} has the id {token}; ids are 0 to {vocab - 1}")
    try:
        array("q", ids)
    except TypeError:
        raise UsageError(f"{field} has an id that is no integer") from None


@dataclass(frozen=True)
class TokenLogprob:
    """A token under the model's own distribution (before penalties and temperature)."""

    token: int
    text: str
    """The token's bytes as text; U+FFFD for a part of a character."""
    logprob: float
    top: tuple[tuple[int, str, float], ...]
    """The most probable tokens at this place: id, text, log-probability."""
    forced: bool = False
    """Whether it was not drawn, because the constraint left no choice."""


@dataclass(frozen=True)
class Timings:
    """Seconds spent, from submission on."""

    queue: float
    """Until the request was admitted to a step."""
    prefill: float
    """From there to the first token, or to the label."""
    decode: float
    """From there to the end."""


@dataclass(frozen=True)
class Text:
    """The next piece of text: whole characters only, possibly of several tokens."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end of a generation."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt that an earlier request had left in the cache."""
    completion_tokens: int
    timings: Timings
    drafted_tokens: int = 0
    """Tokens that were computed in advance, in the hope that they would be drawn."""
    accepted_tokens: int = 0
    """How many of them came, and spared a step."""
    forced_tokens: int = 0
    """Tokens that were not drawn, because the constraint left no choice."""
    stop_string: str | None = None
    """The one that appeared, if that is why it ended."""


@dataclass(frozen=True)
class Classified:
    """The label probabilities of a classification, in the order of the adapter's labels."""

    probabilities: tuple[float, ...]
    logits: tuple[float, ...]
    """Divided by the head's temperature: the probabilities are their softmax."""
    prompt_tokens: int
    cached_tokens: int
    timings: Timings


@dataclass(frozen=True)
class Embedded:
    """The mean of the final hidden states, after the last layer norm."""

    values: tuple[float, ...]
    """(n_embd,)"""
    prompt_tokens: int
    timings: Timings


@dataclass(frozen=True)
class Scored:
    """The log-probabilities of given tokens."""

    logprobs: tuple[TokenLogprob, ...]
    """Of all but the first."""
    ranks: tuple[int, ...]
    """Of each of those among all tokens at its place; 1 is the most probable."""
    prompt_tokens: int
    timings: Timings


@dataclass(frozen=True)
class Failed:
    """The request ended without a result."""

    reason: FailureReason
    message: str


Event = Text | Finished | Classified | Embedded | Scored | Failed


def ends(events: Sequence[Event]) -> bool:
    """Whether the last of `events` is that of its request."""
    return bool(events) and not isinstance(events[-1], Text)
