"""How well a network predicts a text: loss, perplexity and bits per byte."""

import math
from typing import Any

import numpy as np
import torch

from model.tokenizer import Tokenizer
from model.transformer import Transformer
from training.data.tokens import Tokens
from training.objectives.cross_entropy import token_loss

_ROWS = 8  # windows of a forward pass


def heaviest(tokens: Tokens, model: Transformer) -> Tokens:
    """As much of a text as `text_metrics` measures at once."""
    return tokens[: _ROWS * model.config.context_length + 1]


@torch.no_grad()
def text_metrics(model: Transformer, tokens: Tokens, tokenizer: Tokenizer) -> dict[str, Any]:
    """Measure every token of a text but the first, once each.

    The text is cut into windows of the context length, one after another, so that a token at the
    start of a window is predicted from little; an overlap would give lower numbers. Bits per byte
    divide the whole loss by the UTF-8 bytes of the text, end tokens being no bytes: unlike
    perplexity, they can be compared between tokenizers.

    Args:
        model: in evaluation mode.
        tokens: at least two.
    """
    device = model.device
    length = model.config.context_length
    starts = range(0, len(tokens) - 1, length)
    total, count = 0.0, 0
    for first in range(0, len(starts), _ROWS):
        rows = [tokens[s : s + length + 1].astype(np.int64) for s in starts[first : first + _ROWS]]
        # The last window may be shorter, and then is a batch of its own.
        whole = [row for row in rows if len(row) == length + 1]
        for batch in (whole, [row for row in rows if len(row) <= length]):
            if batch:
                windows = torch.from_numpy(np.stack(batch)).to(device)
                loss, predicted = token_loss(model, model(windows[:, :-1]), windows[:, 1:])
                total += loss.item()
                count += predicted
    size = sum(
        len(tokenizer.token_bytes(token)) * int(number)
        for token, number in zip(
            *np.unique(np.asarray(tokens[1:]), return_counts=True), strict=True
        )
        if token != tokenizer.end_token
    )
    return {
        "tokens": count,
        "bytes": size,
        "loss": total / count,
        "perplexity": math.exp(total / count),
        "bits_per_byte": total / math.log(2) / size,
    }
