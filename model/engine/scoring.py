"""Log-probabilities of tokens: of those that are drawn, and of those that were given."""

import logging
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from model.checkpoint import Base
from model.engine.request import Event, Failed, Score, Scored, TokenLogprob
from model.engine.sequence import Chunk, TokenSequence
from model.sampling.cpu import Floats, log_normaliser, ranked
from model.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_AT_ONCE = 32
"""Tokens whose logits are there together: those of a whole step can be a gigabyte."""


def logits_row(logits: Tensor) -> Floats:
    """A copy, (vocab,), on the CPU."""
    row: Floats = logits.cpu().numpy().copy()
    return row


def token_logprob(
    tokenizer: Tokenizer, token: int, logits: Floats, count: int, *, forced: bool = False
) -> TokenLogprob:
    """Of a token and the `count` most probable ones; `logits` is (vocab,), unprocessed."""
    normaliser = log_normaliser(logits)
    return TokenLogprob(
        token,
        tokenizer.token_name(token),
        float(logits[token]) - normaliser,
        tuple(
            (other, tokenizer.token_name(other), float(logits[other]) - normaliser)
            for other in ranked(logits, count).tolist()
        ),
        forced,
    )


@torch.inference_mode()
def score(
    base: Base, chunks: Sequence[tuple[Chunk, Tensor]]
) -> list[tuple[TokenSequence, list[Event]]]:
    """Find the log-probabilities of the tokens that follow those of each chunk.

    Args:
        chunks: with the hidden states of their tokens, (tokens, n_embd).

    Returns:
        the sequences that have ended, each with its event
    """
    events: list[tuple[TokenSequence, list[Event]]] = []
    for chunk, hidden in chunks:
        try:
            event = _score(base, chunk, hidden)
        except Exception as error:
            logger.exception("scoring a text failed")
            event = Failed("internal", f"scoring a text failed: {type(error).__name__}")
        if event is not None:
            events.append((chunk.sequence, [event]))
    return events


def _score(base: Base, chunk: Chunk, hidden: Tensor) -> Scored | Failed | None:
    sequence, want = chunk.sequence, chunk.sequence.request.want
    assert isinstance(want, Score)
    following = sequence.tokens[chunk.start + 1 : chunk.end + 1]
    for first in range(0, len(following), _AT_ONCE):
        tokens = following[first : first + _AT_ONCE]
        # A network may have more rows than its tokenizer has tokens.
        logits = base.model.logits(hidden[first : first + len(tokens)])
        rows = logits[:, : base.tokenizer.vocab_size].float()
        for token, row in zip(tokens, map(logits_row, rows), strict=True):
            entry = token_logprob(base.tokenizer, token, row, want.top)
            if not math.isfinite(entry.logprob):
                return Failed("internal", "the network gave no usable logits")
            sequence.logprobs.append(entry)
            sequence.ranks.append(1 + int((row > row[token]).sum()))
    if not chunk.completes:
        return None
    now = sequence.first_result = time.monotonic()
    return Scored(
        tuple(sequence.logprobs),
        tuple(sequence.ranks),
        sequence.prompt_length,
        sequence.timings(now),
    )
