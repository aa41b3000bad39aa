"""From the logits of a step to the events of its sequences.

Each row passes its own processors and constraint, a token is drawn by its own settings and random
numbers, and becomes text; then the sequence goes on or ends. A row's fault ends no other sequence.

Where a constraint leaves no choice, the tokens that it forces follow the drawn one at once: they
use up no random number and count as any others. Before the first draw they follow the prompt, and
are computed with it. Who wants log-probabilities gets the same tokens one in a step, each in the
place of a drawn one, since its row has to be computed; where there are drafts, those tokens are
one. So is what is left open of a forced stretch.

Behind a draft several tokens are drawn, each as if there were none: in rounds, of which the next
takes the sequences whose new tokens are the draft's next. Their next row was computed after those.
"""

import logging
import time
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from model.checkpoint import Base
from model.engine.constraints import Constraints, Matcher
from model.engine.grammars import ConstraintError
from model.engine.request import (
    Event,
    Failed,
    FinishReason,
    Generate,
    Text,
    ends,
)
from model.engine.scoring import logits_row, token_logprob
from model.engine.sequence import Chunk, TokenSequence
from model.sampling import LogitBias, Penalties, SamplingSettings, sample
from model.sampling.cpu import Floats
from model.tokenizer import TextStream

logger = logging.getLogger(__name__)

_UNUSABLE = Failed("internal", "the network gave no usable logits")


class Sampler:
    """Draws tokens and turns them into text.

    Args:
        force_text: whether what constraints leave no choice about is taken without a draw.
    """

    def __init__(self, base: Base, *, force_text: bool = True) -> None:
        self.base = base
        self.force_text = force_text
        self.forced_tokens = 0
        self.constraints = Constraints(base.tokenizer, base.stop_tokens)
        gaps = base.tokenizer.gaps
        self._gaps = torch.tensor(gaps, device=base.model.device) if gaps else None

    def prepare(self, sequence: TokenSequence) -> None:
        """Give a new sequence what drawing its tokens needs."""
        want = sequence.request.want
        if not isinstance(want, Generate):
            return
        sampling = want.sampling
        sequence.text = TextStream(self.base.tokenizer, want.stop)
        sequence.draws = sampling.generator()
        if sampling.penalises:
            sequence.processors.append(Penalties(sampling))
        if sampling.logit_bias:
            sequence.processors.append(LogitBias(sampling))

    def begin(self, sequence: TokenSequence) -> None:
        """Add what a sequence's constraint forces before its first draw, once, if it has one."""
        if sequence.begun or not isinstance(sequence.request.want, Generate):
            return
        sequence.begun = True
        try:
            if self.force_text and self._matcher(sequence) is not None:
                sequence.outcome = self._take_forced(sequence)
        except Exception as error:
            sequence.outcome = _failure(error)

    def draw_chunks(
        self, chunks: Sequence[Chunk], logits: Tensor
    ) -> list[tuple[TokenSequence, list[Event]]]:
        """Draw the next token of each chunk's sequence, and those after it as far as its draft is
        right.

        Args:
            logits: (rows, vocab), for each chunk after its sequence's last token and after each
                token of its draft; they are overwritten.

        Returns:
            as `draw`
        """
        events: dict[TokenSequence, list[Event]] = {chunk.sequence: [] for chunk in chunks}
        counts = [1 + len(chunk.draft) for chunk in chunks]
        firsts = accumulate(counts[:-1], initial=0)
        going_on = list(zip(chunks, firsts, strict=True))
        while going_on:
            rows = [first + chunk.came for chunk, first in going_on]
            drawn = logits[rows] if len(rows) < len(logits) else logits
            for sequence, new in self.draw([chunk for chunk, _ in going_on], drawn):
                events[sequence] += new
            going_on = [
                (chunk, first)
                for chunk, first in going_on
                if chunk.follows and not ends(events[chunk.sequence])
            ]
        return list(events.items())

    @torch.inference_mode()
    def draw(self, chunks: list[Chunk], logits: Tensor) -> list[tuple[TokenSequence, list[Event]]]:
        """Draw the next token of each chunk's sequence, and take those that are forced behind it.

        Args:
            logits: (len(chunks), vocab)

        Returns:
            each sequence with its events; the last one is `Finished` or `Failed` when it has ended
        """
        # A network may have more rows than its tokenizer has tokens; those are never drawn.
        logits = logits[:, : self.base.tokenizer.vocab_size].float()
        sequences = [chunk.sequence for chunk in chunks]
        wants = [_generate(sequence) for sequence in sequences]
        raw = {
            row: logits_row(logits[row])
            for row, want in enumerate(wants)
            if want.logprobs is not None
        }
        failed = _process(sequences, logits)
        failed |= self._constrain(sequences, logits)
        if self._gaps is not None:
            logits.index_fill_(1, self._gaps, float("-inf"))
        uniforms = [
            0.0 if want.sampling.temperature == 0 or sequence.pending else _random(sequence)
            for sequence, want in zip(sequences, wants, strict=True)
        ]
        drawn = _sample(logits, [want.sampling for want in wants], uniforms)
        for row, failure in failed.items():
            drawn[row] = failure
        now = time.monotonic()
        events: list[tuple[TokenSequence, list[Event]]] = []
        for row, (chunk, token) in enumerate(zip(chunks, drawn, strict=True)):
            sequence = chunk.sequence
            outcome = sequence.outcome if isinstance(sequence.outcome, Failed) else token
            if isinstance(outcome, Failed):
                events.append((sequence, [outcome]))
                continue
            try:
                events.append((sequence, self._advance(chunk, outcome, raw.get(row), now)))
            except Exception as error:
                events.append((sequence, [_failure(error)]))
        return events

    def _constrain(self, sequences: list[TokenSequence], logits: Tensor) -> dict[int, Failed]:
        """Bar the tokens that constraints do not allow, in place; the rows that cannot go on."""
        matchers: list[tuple[int, Matcher]] = []
        failed: dict[int, Failed] = {}
        for row, sequence in enumerate(sequences):
            if sequence.pending or sequence.outcome:
                continue  # nothing is drawn
            try:
                matcher = self._matcher(sequence)
                if matcher is not None:
                    matchers.append((row, matcher))
            except Exception as error:
                failed[row] = _failure(error)
        return failed | self._mask(matchers, logits) if matchers else failed

    def _mask(self, matchers: list[tuple[int, Matcher]], logits: Tensor) -> dict[int, Failed]:
        try:
            reasons = self.constraints.mask(matchers, logits)
        except Exception as error:
            if len(matchers) == 1:
                return {matchers[0][0]: _failure(error)}
            # One of them is to blame; the others can be treated without it.
            alone = (self._mask([each], logits) for each in matchers)
            return {row: failed for each in alone for row, failed in each.items()}
        return {row: _too_complex(reason) for row, reason in reasons.items()}

    def _matcher(self, sequence: TokenSequence) -> Matcher | None:
        """Of the sequence's constraint, if it has one."""
        constraint = _generate(sequence).constraint
        if constraint is not None and sequence.matcher is None:
            sequence.matcher = self.constraints.matcher(constraint)
        return sequence.matcher

    def _advance(self, chunk: Chunk, token: int, raw: Floats | None, now: float) -> list[Event]:
        """Give a chunk's sequence its new token, and those that are forced behind it; the events
        are its text, and the end if this is it.

        Args:
            token: that which was drawn, if one was to be.
            raw: the row that it was drawn from before the processors, (vocab,), where asked for.
        """
        sequence, reason = chunk.sequence, chunk.sequence.outcome
        assert not isinstance(reason, Failed)
        sequence.first_result = sequence.first_result or now
        if reason is None:
            forced = bool(sequence.pending)
            if forced:
                token, sequence.expected = sequence.pending.pop(0), sequence.expected[1:]
            reason = self._take(sequence, token, raw, forced=forced)
        if reason is None and self.force_text and not sequence.pending:
            reason = self._take_forced(sequence)
        return self._events(chunk, reason, now)

    def _take_forced(self, sequence: TokenSequence) -> FinishReason | None:
        """Give a sequence what its constraint forces now; where log-probabilities are wanted, let
        it come with the next steps."""
        sequence.expected = []
        while sequence.matcher is not None:
            forced, rest = self.constraints.forced(sequence.matcher)
            sequence.expected = rest
            if not forced:
                break
            if _generate(sequence).logprobs is not None:
                sequence.pending, sequence.expected = forced, forced + rest
                break
            for token in forced:
                reason = self._take(sequence, token, None, forced=True)
                if reason is not None:
                    return reason
        return None

    def _take(
        self, sequence: TokenSequence, token: int, raw: Floats | None, *, forced: bool = False
    ) -> FinishReason | None:
        """Give a sequence one token more; why it ends there, if it does."""
        want, text = _generate(sequence), sequence.text
        assert text is not None
        sequence.tokens.append(token)
        sequence.forced += forced
        self.forced_tokens += forced
        if raw is not None:
            count = want.logprobs or 0
            entry = token_logprob(self.base.tokenizer, token, raw, count, forced=forced)
            sequence.logprobs.append(entry)
        reason: FinishReason | None = None
        if token in self.base.stop_tokens:
            # The end token has no text, also where it does not end the sequence.
            reason = None if want.ignore_eos else "eos"
        else:
            sequence.unsent += text.push(token)
            if sequence.matcher is not None:
                sequence.matcher.consume(token)
            complete = sequence.matcher is not None and sequence.matcher.complete
            reason = "stop" if text.stopped or complete else None
        if reason is None and sequence.generated >= want.max_new_tokens:
            reason = "length"
        if reason is not None:
            sequence.unsent += text.flush()
            if text.stopped:
                reason = "stop"
        return reason

    def _events(self, chunk: Chunk, reason: FinishReason | None, now: float) -> list[Event]:
        """The text that a sequence has to give, and its end if there is a `reason`."""
        sequence, done = chunk.sequence, reason is not None
        stream = _generate(sequence).stream
        events: list[Event] = []
        if (sequence.unsent and (stream or done)) or (sequence.logprobs and done):
            events.append(Text(sequence.unsent, tuple(sequence.logprobs)))
            sequence.unsent = ""
            sequence.logprobs.clear()
        if reason is not None:
            events.append(sequence.finished(reason, chunk.held, now))
        return events


def _process(sequences: list[TokenSequence], logits: Tensor) -> dict[int, Failed]:
    """Pass each row, in place, through its sequence's processors; the rows that cannot go on."""
    failed: dict[int, Failed] = {}
    for row, sequence in enumerate(sequences):
        if not sequence.processors:
            continue
        prompt = sequence.tokens[: sequence.prompt_length]
        generated = sequence.tokens[sequence.prompt_length :]
        given = changed = logits[row]
        try:
            for process in sequence.processors:
                changed = process(changed, prompt, generated)
            if changed is not given:
                logits[row] = changed
        except Exception as error:
            failed[row] = _failure(error)
    return failed


def _sample(
    logits: Tensor, settings: Sequence[SamplingSettings], uniforms: Sequence[float]
) -> list[int | Failed]:
    """A token for each row, as of `model.sampling.sample`; or why it has none."""
    try:
        tokens = sample(logits, settings, uniforms)
    except Exception as error:
        if len(settings) == 1:
            return [_failure(error)]
        # One of them is to blame; what the others draw depends on their own rows alone.
        rows = [slice(row, row + 1) for row in range(len(settings))]
        return [_sample(logits[row], settings[row], uniforms[row])[0] for row in rows]
    return [_UNUSABLE if token is None else token for token in tokens]


def _failure(error: Exception) -> Failed:
    """What a sequence gets whose row could not be treated."""
    if isinstance(error, ConstraintError):
        return _too_complex(error)
    logger.error("drawing a token failed", exc_info=error)
    return Failed("internal", f"drawing a token failed: {type(error).__name__}")


def _too_complex(reason: object) -> Failed:
    return Failed("constraint", f"the text cannot go on: {reason}")


def _generate(sequence: TokenSequence) -> Generate:
    want = sequence.request.want
    assert isinstance(want, Generate)
    return want


def _random(sequence: TokenSequence) -> float:
    assert sequence.draws is not None
    return sequence.draws.random()
