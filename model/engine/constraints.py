"""Generated texts of a given form: JSON of a schema, a regular expression, a choice, a tool's call.

llguidance says at each place of a text which tokens can come next. All others get the logit -inf
before one is drawn; the end token can come exactly where the text is complete. The masks of all
constrained rows of a step are filled and applied together. Where only one continuation is left,
nothing needs to be drawn: its tokens are taken as they are (`Constraints.forced`).

Users write schemas and expressions, some of them to see what breaks: each is first compiled in a
process of its own (`model.engine.grammar_check`), and there is a bound on every step.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.engine.grammar_check import LIMITS, problem_of
from model.engine.grammars import ConstraintError, grammar_of
from model.engine.request import Constraint
from model.errors import TextError
from model.tokenizer import Settled, Tokenizer

if TYPE_CHECKING:  # else it is imported with the first constraint
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

_MOST_FORCED = 2048  # bytes of a forced stretch that are made tokens at once
_SPARE = 32  # matchers that wait for their sequences
_KNOWN = 256  # constraints that need no check any more


class _Tokens:
    """A tokenizer as llguidance asks for one: tokens without bytes never come in a text."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._encode = tokenizer.encode
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special.ids.values())
        self.eos_token_id = end
        self.bos_token_id = tokenizer.special.beginning

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("only text is encoded")
        return self._encode(text)


class Matcher:
    """How far one text has come on its way through its constraint."""

    def __init__(self, inner: "LLMatcher") -> None:
        self.inner = inner

    def consume(self, token: int) -> None:
        """`token` was drawn.

        Raises:
            ConstraintError: it had to be another, or the state has become too complex.
        """
        if not self.inner.consume_token(token):
            raise ConstraintError(_reason(self.inner.get_error()))

    @property
    def complete(self) -> bool:
        """Whether the text is what it must be, and nothing can follow."""
        return self.inner.is_stopped() and not self.inner.is_error()


class Constraints:
    """Compiles constraints for one tokenizer.

    Args:
        stop_tokens: those that end a text.
    """

    def __init__(self, tokenizer: Tokenizer, stop_tokens: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_tokens = tuple(stop_tokens) or (tokenizer.end_token,)
        self._lock = threading.Lock()
        self._known: OrderedDict[Constraint, str | None] = OrderedDict()
        self._spare: OrderedDict[Constraint, list[Matcher]] = OrderedDict()

    def prepare(self, constraint: Constraint, count: int = 1) -> None:
        """Check a constraint, and make matchers that `matcher` will then have at once.

        This can take a second, during which other threads go on.

        Raises:
            ConstraintError: it cannot be used.
            PenwrightError: it cannot be checked here, whatever it is.
        """
        grammar = grammar_of(constraint)
        with self._lock:
            known = constraint in self._known
            problem = self._known.get(constraint)
        if not known:
            # Alternatives of plain strings can do no harm.
            problem = None if constraint.kind == "choice" else problem_of(grammar)
            with self._lock:
                self._known[constraint] = problem
                while len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
        if problem is not None:
            raise ConstraintError(_reason(problem))
        made = [self._compile(grammar) for _ in range(min(count, _SPARE))]
        with self._lock:
            self._spare.setdefault(constraint, []).extend(made)
            self._spare.move_to_end(constraint)
            while sum(map(len, self._spare.values())) > _SPARE:
                oldest = next(iter(self._spare))
                self._spare[oldest].pop()
                if not self._spare[oldest]:
                    del self._spare[oldest]

    def matcher(self, constraint: Constraint) -> Matcher:
        """A matcher at its beginning, for one text.

        Raises:
            ConstraintError: it cannot be used.
        """
        with self._lock:
            spare = self._spare.get(constraint)
            if spare:
                found = spare.pop()
                if not spare:
                    del self._spare[constraint]
                return found
        # A copy would share the states that the others add, up to the bound of all together.
        return self._compile(grammar_of(constraint))

    def mask(self, matchers: Sequence[tuple[int, Matcher]], logits: Tensor) -> dict[int, str]:
        """Set the logits of tokens that cannot come to -inf.

        Args:
            matchers: with the row of each.
            logits: (rows, vocab); changed in place.

        Returns:
            of rows that cannot go on, the reason; their logits are left as they are
        """
        allowed, failed = self._allowed([matcher for _, matcher in matchers])
        good = [index for index in range(len(matchers)) if index not in failed]
        if good:
            barred = torch.from_numpy(~allowed[good]).to(logits.device)
            rows = torch.tensor([matchers[index][0] for index in good], device=logits.device)
            logits[rows] = logits[rows].masked_fill(barred, float("-inf"))
        return {matchers[index][0]: reason for index, reason in failed.items()}

    def _allowed(self, matchers: Sequence[Matcher]) -> tuple[NDArray[np.bool_], dict[int, str]]:
        """Which tokens can come next, (matchers, vocab); and by the index of each matcher that
        cannot go on, the reason."""
        import llguidance.numpy

        vocab = self._tokenizer.vocab_size
        bits = llguidance.numpy.allocate_token_bitmask(len(matchers), vocab)
        inner = [(matcher.inner, index) for index, matcher in enumerate(matchers)]
        llguidance.numpy.fill_next_token_bitmask_par(self._executor, inner, bits)
        failed = {
            index: _reason(matcher.inner.get_error(), "nothing that it allows can follow")
            for index, matcher in enumerate(matchers)
            if matcher.inner.is_error()
        }
        # The library's words of 32 tokens are bytes of 8 alike.
        octets = np.ascontiguousarray(bits).view(np.uint8)
        return np.unpackbits(octets, axis=1, count=vocab, bitorder="little") == 1, failed

    def forced(self, matcher: Matcher) -> tuple[list[int], list[int]]:
        """The tokens that come next without a choice, none where there is one; and those that are
        left of the stretch, which may come behind them.

        The constraint leaves one continuation for a stretch of bytes. Encoded as a whole, by the
        tokenizer alone, they are the tokens that the model saw of them in training, while the mask
        would allow any others of the same bytes. Of these tokens come those that stay whatever the
        constraint allows behind the stretch (`Settled.tokens`). The end of the stretch is left to
        be drawn together with what follows, and what was drawn before the stretch stays as it is.
        A stretch that begins within a character begins behind it, and one of more than 2,048 bytes
        is encoded in parts.

        So they depend on the constraint and on the bytes so far, and on nothing else.
        """
        stretch = matcher.inner.compute_ff_bytes()
        text = stretch[:_MOST_FORCED].decode("utf-8", "ignore")
        content = text.encode()
        if not text or not stretch.startswith(content):
            return [], []
        try:
            tokens = self._tokenizer.encode(text)
            if b"".join(map(self._tokenizer.token_bytes, tokens)) != content:
                return [], []  # the tokenizer writes it in another way
            following: Collection[int] = stretch[len(content) : len(content) + 1]
            if not following:
                following = self._following(matcher, tokens)
            settled = self._settled.tokens(text, following)
        except TextError:  # a byte that no token stands for
            return [], []
        return settled, tokens[len(settled) :]

    def _following(self, matcher: Matcher, tokens: Sequence[int]) -> set[int]:
        """The bytes that may come behind `tokens`, which come next; none where the text ends.

        Raises:
            ConstraintError: the state has become too complex.
        """
        inner = matcher.inner
        if not inner.consume_tokens(list(tokens)):
            raise ConstraintError(_reason(inner.get_error()))
        following: set[int] = set()
        if not inner.is_stopped():
            [allowed], failed = self._allowed([matcher])
            if failed:
                raise ConstraintError(failed[0])
            following = set(np.unique(self._first_bytes[allowed]).tolist()) - {-1}
        if not inner.rollback(len(tokens)):
            raise ConstraintError(_reason(inner.get_error()))
        return following

    def _compile(self, grammar: str) -> Matcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**LIMITS)
        inner = LLMatcher(self._lltokenizer, grammar, log_level=0, limits=limits)
        if inner.is_error():
            raise ConstraintError(_reason(inner.get_error()))
        return Matcher(inner)

    @cached_property
    def _lltokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        # A second for the 50,257 tokens of GPT-2, and once is enough.
        tokens = TokenizerWrapper(_Tokens(self._tokenizer, self._stop_tokens[0]))
        return LLTokenizer(tokens, eos_token=list(self._stop_tokens))

    @cached_property
    def _settled(self) -> Settled:
        return Settled(self._tokenizer)

    @cached_property
    def _first_bytes(self) -> NDArray[np.int16]:
        """(vocab,); -1 for tokens without bytes"""
        contents = map(self._tokenizer.token_bytes, range(self._tokenizer.vocab_size))
        return np.array([content[0] if content else -1 for content in contents], np.int16)

    @cached_property
    def _executor(self) -> "LLExecutor":
        from llguidance import LLExecutor

        return LLExecutor(torch.get_num_threads())


def _reason(error: str, dead_end: str = "no text can satisfy it") -> str:
    """A message of the library in a line: it draws a regular expression with a pointer below.

    Args:
        dead_end: the message for a place where no token at all can come.
    """
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    for line in lines:
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    first = lines[0] if lines else "unknown"
    if first.startswith("NoExtension"):
        return dead_end
    return first[:300]
