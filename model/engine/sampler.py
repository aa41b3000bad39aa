"""From the logits of a step to the events of its sequences.

Each row passes its own processors and constraint, a token is drawn by its own settings and its own
random numbers, and becomes text; then the sequence goes on or ends.
"""

import time

import torch
from torch import Tensor

from model.checkpoint import Base
from model.engine.constraints import ConstraintError, Constraints, Matcher
from model.engine.request import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Text,
    TokenLogprob,
)
from model.engine.scheduler import TokenSequence
from model.sampling import LogitBias, Penalties, sample
from model.sampling.cpu import Floats, log_normaliser, ranked
from model.tokenizer import TextStream

_UNUSABLE = Failed("internal", "the network gave no usable logits")


class Sampler:
    """Draws tokens and turns them into text."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.constraints = Constraints(base.tokenizer, base.stop_tokens)

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

    @torch.inference_mode()
    def draw(
        self, sequences: list[TokenSequence], logits: Tensor
    ) -> list[tuple[TokenSequence, list[Event]]]:
        """Draw the next token of each sequence.

        Args:
            logits: (len(sequences), vocab)

        Returns:
            each sequence with its events; the last one is `Finished` or `Failed` when it has ended
        """
        # A network may have more rows than its tokenizer has tokens; those are never drawn.
        logits = logits[:, : self.base.tokenizer.vocab_size].float()
        wants = [_generate(sequence) for sequence in sequences]
        raw = {
            row: _row(logits[row]) for row, want in enumerate(wants) if want.logprobs is not None
        }
        _process(sequences, logits)
        failed = self._constrain(sequences, logits)
        uniforms = [
            0.0 if want.sampling.temperature == 0 else _random(sequence)
            for sequence, want in zip(sequences, wants, strict=True)
        ]
        tokens = sample(logits, [want.sampling for want in wants], uniforms)
        now = time.monotonic()
        events: list[tuple[TokenSequence, list[Event]]] = []
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if row in failed or token is None:
                events.append((sequence, [failed.get(row, _UNUSABLE)]))
                continue
            try:
                events.append((sequence, self._advance(sequence, token, raw.get(row), now)))
            except ConstraintError as error:
                events.append((sequence, [_too_complex(error)]))
        return events

    def _constrain(self, sequences: list[TokenSequence], logits: Tensor) -> dict[int, Failed]:
        """Bar the tokens that constraints do not allow, in place; the rows that cannot go on."""
        matchers: list[tuple[int, Matcher]] = []
        failed: dict[int, Failed] = {}
        for row, sequence in enumerate(sequences):
            constraint = _generate(sequence).constraint
            if constraint is None:
                continue
            try:
                if sequence.matcher is None:
                    sequence.matcher = self.constraints.matcher(constraint)
                matchers.append((row, sequence.matcher))
            except ConstraintError as error:
                failed[row] = _too_complex(error)
        if matchers:
            for row, reason in self.constraints.mask(matchers, logits).items():
                failed[row] = _too_complex(reason)
        return failed

    def _advance(
        self, sequence: TokenSequence, token: int, raw: Floats | None, now: float
    ) -> list[Event]:
        """Give a sequence its new token; the events are its text, and the end if this is it.

        Args:
            raw: the row that it was drawn from before the processors, (vocab,), where asked for.
        """
        want, text = _generate(sequence), sequence.text
        assert text is not None
        sequence.first_result = sequence.first_result or now
        sequence.tokens.append(token)
        if raw is not None:
            sequence.logprobs.append(self._token_logprob(token, raw, want.logprobs or 0))
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
        events: list[Event] = []
        done = reason is not None
        if (sequence.unsent and (want.stream or done)) or (sequence.logprobs and done):
            events.append(Text(sequence.unsent, tuple(sequence.logprobs)))
            sequence.unsent = ""
            sequence.logprobs.clear()
        if reason is not None:
            events.append(
                Finished(
                    reason,
                    prompt_tokens=sequence.prompt_length,
                    cached_tokens=sequence.reused,
                    completion_tokens=sequence.generated,
                    timings=sequence.timings(now),
                )
            )
        return events

    def _token_logprob(self, token: int, logits: Floats, count: int) -> TokenLogprob:
        """Of a token and the `count` most probable ones; `logits` is (vocab,), unprocessed."""
        normaliser = log_normaliser(logits)
        return TokenLogprob(
            token,
            self._token_text(token),
            float(logits[token]) - normaliser,
            tuple(
                (other, self._token_text(other), float(logits[other]) - normaliser)
                for other in ranked(logits, count).tolist()
            ),
        )

    def _token_text(self, token: int) -> str:
        return self.base.tokenizer.token_name(token)


def _row(logits: Tensor) -> Floats:
    """A copy, (vocab,), on the CPU; processors may write into the original."""
    row: Floats = logits.cpu().numpy().copy()
    return row


def _process(sequences: list[TokenSequence], logits: Tensor) -> None:
    """Pass each row, in place, through its sequence's processors."""
    for row, sequence in enumerate(sequences):
        if not sequence.processors:
            continue
        prompt = sequence.tokens[: sequence.prompt_length]
        generated = sequence.tokens[sequence.prompt_length :]
        given = changed = logits[row]
        for process in sequence.processors:
            changed = process(changed, prompt, generated)
        if changed is not given:
            logits[row] = changed


def _too_complex(reason: object) -> Failed:
    return Failed("constraint", f"the text cannot go on: {reason}")


def _generate(sequence: TokenSequence) -> Generate:
    want = sequence.request.want
    assert isinstance(want, Generate)
    return want


def _random(sequence: TokenSequence) -> float:
    assert sequence.draws is not None
    return sequence.draws.random()
