"""From the logits of a step to the events of its sequences.

Each row passes its own processors, is drawn by its own settings and its own random numbers, and
becomes text; then its sequence goes on or ends.
"""

import time

import torch
from torch import Tensor

from model.checkpoint import Base
from model.engine.request import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Text,
    TokenLogprob,
)
from model.engine.scheduler import Chunk, Sequence
from model.engine.text_stream import TextStream
from model.sampling import penalise, sample


class Sampler:
    """Draws tokens and turns them into text."""

    def __init__(self, base: Base) -> None:
        self.base = base

    def prepare(self, sequence: Sequence) -> None:
        """Give a sequence that enters the engine what drawing its tokens needs."""
        want = sequence.request.want
        if not isinstance(want, Generate):
            return
        sampling = want.sampling
        sequence.text = TextStream(self.base.tokenizer, want.stop)
        sequence.draws = sampling.generator()
        if sampling.penalises:
            sequence.processors.append(
                lambda logits, prompt, new: penalise(logits, sampling, prompt, new)
            )

    @torch.inference_mode()
    def draw(self, chunks: list[Chunk], logits: Tensor) -> list[tuple[Sequence, list[Event]]]:
        """Draw the next token of each sequence.

        Args:
            chunks: those whose sequences are at their last token.
            logits: (len(chunks), vocab)

        Returns:
            each sequence with its events; the last one is `Finished` or `Failed` when it has ended
        """
        # A network may have more rows than its tokenizer has tokens; those are never drawn.
        logits = logits[:, : self.base.tokenizer.vocab_size]
        broken = logits.isnan().any(dim=-1)
        logits[broken] = 0.0  # so that the rows beside them are drawn as ever
        sequences = [chunk.sequence for chunk in chunks]
        wants = [_generate(sequence) for sequence in sequences]
        logprobs = self._logprobs(wants, logits)
        for row, sequence in enumerate(sequences):
            if sequence.processors:
                prompt = sequence.tokens[: sequence.prompt_length]
                generated = sequence.tokens[sequence.prompt_length :]
                for process in sequence.processors:
                    logits[row] = process(logits[row], prompt, generated)
        settings = [want.sampling for want in wants]
        uniforms = [
            0.0 if want.sampling.temperature == 0 else _random(sequence)
            for sequence, want in zip(sequences, wants, strict=True)
        ]
        tokens = sample(logits, settings, uniforms)
        now = time.monotonic()
        events: list[tuple[Sequence, list[Event]]] = []
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if broken[row]:
                failed = Failed("internal", "the network gave no usable logits")
                events.append((sequence, [failed]))
                continue
            sequence.first_result = sequence.first_result or now
            sequence.tokens.append(token)
            if row in logprobs:
                sequence.logprobs.append(self._token_logprob(token, *logprobs[row]))
            events.append((sequence, self._advance(sequence, token, now)))
        return events

    def _advance(self, sequence: Sequence, token: int, now: float) -> list[Event]:
        """The events of a new token: its text, and the end if this is it."""
        want, text = _generate(sequence), sequence.text
        assert text is not None
        reason: FinishReason | None = None
        piece = ""
        if token in self.base.stop_tokens:
            # The end token has no text, also where it does not end the sequence.
            reason = None if want.ignore_eos else "eos"
        else:
            piece = text.push(token)
            reason = "stop" if text.stopped else None
        if reason is None and sequence.generated >= want.max_new_tokens:
            reason = "length"
        if reason is not None:
            piece += text.flush()
            if text.stopped:
                reason = "stop"
        events: list[Event] = []
        if piece or (reason is not None and sequence.logprobs):
            events.append(Text(piece, tuple(sequence.logprobs)))
            sequence.logprobs.clear()
        if reason is not None:
            events.append(
                Finished(
                    reason,
                    prompt_tokens=sequence.prompt_length,
                    cached_tokens=0,
                    completion_tokens=sequence.generated,
                    timings=sequence.timings(now),
                )
            )
        return events

    def _logprobs(self, wants: list[Generate], logits: Tensor) -> dict[int, tuple[Tensor, int]]:
        """Log-probabilities, (vocab,), and the number of alternatives, of rows that ask."""
        rows = [row for row, want in enumerate(wants) if want.logprobs is not None]
        if not rows:
            return {}
        values = torch.log_softmax(logits[rows].float(), dim=-1)
        return {row: (values[i], wants[row].logprobs or 0) for i, row in enumerate(rows)}

    def _token_logprob(self, token: int, values: Tensor, count: int) -> TokenLogprob:
        top = values.topk(min(count, len(values)))
        alternatives = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return TokenLogprob(
            token,
            self._token_text(token),
            float(values[token]),
            tuple((other, self._token_text(other), value) for other, value in alternatives),
        )

    def _token_text(self, token: int) -> str:
        return self.base.tokenizer.decode([token])


def _generate(sequence: Sequence) -> Generate:
    want = sequence.request.want
    assert isinstance(want, Generate)
    return want


def _random(sequence: Sequence) -> float:
    assert sequence.draws is not None
    return sequence.draws.random()
