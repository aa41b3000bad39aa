"""BLiMP: pairs of sentences that differ in one grammatical point (Warstadt et al., 2020).

A network that knows the point finds the good sentence more probable than the bad one. Nothing is
fine-tuned or prompted: both sentences are scored as whole documents, and the pair is right when
the good one's log-probability, summed over its tokens, is the higher. Guessing gives 50%.

A file has one JSON object a line, `.jsonl` or `.jsonl.xz`:

    {"paradigm": "anaphor_gender_agreement", "good": "…", "bad": "…"}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model.errors import DataError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from training.data.files import Source
from training.data.records import read_records
from training.data.tables import Columns
from training.measure.intervals import Floats, proportion
from training.objectives.cross_entropy import token_losses

_TOKENS = 4096  # of a forward pass

METHOD = (
    "a pair is right when the good sentence has the higher log-probability, summed over its "
    "tokens, each sentence at the beginning of a document as in training; chance is 0.5"
)
"""For reports."""


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences, of which one is grammatical."""

    paradigm: str
    """The grammatical point."""
    good: str
    bad: str


def load_pairs(source: Source) -> list[MinimalPair]:
    """All pairs of a file.

    Raises:
        DataError: it cannot be read, or a line is no pair; names file and line.
    """
    names = ("paradigm", "good", "bad")
    pairs = []
    for record in read_records(source, Columns(names, "`paradigm`, `good` and `bad`")).records:
        for name in names:
            value = record.fields.get(name)
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"{record.where} has no {name} that is a text")
        pairs.append(MinimalPair(*map(record.string, names)))
    return pairs


def blimp_metrics(
    model: Transformer, tokenizer: Tokenizer, pairs: Sequence[MinimalPair]
) -> dict[str, Any]:
    """Accuracy in all and for each paradigm, hardest first, with Wilson intervals at 95%.

    Args:
        model: in evaluation mode.
        pairs: at least one.

    Raises:
        DataError: a sentence is longer than the model's context.
    """
    scores = log_probabilities(
        model, tokenizer, [s for pair in pairs for s in (pair.good, pair.bad)]
    )
    right = scores[0::2] > scores[1::2]
    by_paradigm: dict[str, list[bool]] = {}
    for pair, is_right in zip(pairs, right, strict=True):
        by_paradigm.setdefault(pair.paradigm, []).append(bool(is_right))
    shares = {name: proportion(sum(found), len(found)) for name, found in by_paradigm.items()}
    return {
        "n": len(pairs),
        "chance": 0.5,
        "accuracy": proportion(int(right.sum()), len(pairs)),
        "paradigms": dict(sorted(shares.items(), key=lambda item: item[1]["value"])),
    }


@torch.no_grad()
def log_probabilities(model: Transformer, tokenizer: Tokenizer, sentences: Sequence[str]) -> Floats:
    """The log-probability of each sentence at the beginning of a document, in nats: (n,) fp64

    Before it stands what the tokenizer puts before every text, or else the token that ends the
    document before. Sentences of the same length are batched, so that no padding is computed at
    all.

    Raises:
        DataError: a sentence is longer than the model's context.
    """
    before = tokenizer.prefix or (tokenizer.end_token,)
    rows = tokenizer.encode_batch(sentences)
    by_length: dict[int, list[int]] = {}
    for index, tokens in enumerate(rows):
        if len(tokens) > model.config.context_length:
            raise DataError(
                f"a sentence has {len(tokens)} tokens, more than the context of "
                f"{model.config.context_length}: {sentences[index][:60]!r}"
            )
        by_length.setdefault(len(tokens), []).append(index)
    result = np.zeros(len(rows))
    for length, members in by_length.items():
        size = max(1, _TOKENS // length)
        for start in range(0, len(members), size):
            chosen = members[start : start + size]
            given = [[*before, *rows[index]] for index in chosen]
            tokens_in = torch.tensor(given, device=model.device)  # (rows, 1 + length)
            hidden = model(tokens_in[:, :-1])
            losses = token_losses(model, hidden.flatten(0, 1), tokens_in[:, 1:].flatten())
            sums = losses.view(len(chosen), length).double().sum(dim=1)
            result[chosen] = -sums.cpu().numpy()
    return result
