"""The distributions that rows draw from, and drawing from them on any device, all rows at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.sampling.settings import SamplingSettings


def probabilities(logits: Tensor, settings: Sequence[SamplingSettings]) -> Tensor:
    """The distribution that each row draws from, after temperature, top-k, top-p and min-p.

    Filters apply in that order, each to what the one before left. A temperature of 0 gives a
    distribution with all its weight on the first of the most probable tokens.

    Args:
        logits: (rows, vocab), finite or -inf, not all of a row -inf.
        settings: one for each row.

    Returns:
        (rows, vocab) fp32; rows sum to 1
    """
    shares = _shares(logits, settings)
    return shares.float() / shares.sum(dim=-1, keepdim=True).float()


def _shares(logits: Tensor, settings: Sequence[SamplingSettings]) -> Tensor:
    """The distributions as whole numbers, (rows, vocab) int64, in proportion to the probabilities.

    Whole numbers add up to the same in any order, so that no device, and no number of rows, moves
    the line that a filter draws. What is too small for one is never drawn: with 50,257 tokens, less
    than 2^-46 of the most probable.
    """
    vocab, device = logits.shape[-1], logits.device
    most = 2.0 ** (62 - vocab.bit_length())  # the share of the largest; all together are below 2^62

    def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, device=device, dtype=dtype)[:, None]

    logits = logits.float()
    largest = logits.amax(dim=-1, keepdim=True)
    # A temperature too small for fp32 would divide by zero.
    temperatures = column([max(s.temperature or 1.0, 1e-20) for s in settings])
    # The difference first: a large quotient is not finite.
    shares = torch.exp((logits - largest) / temperatures).mul(most).long()
    if any(s.top_k or s.top_p < 1 for s in settings):
        order = logits.sort(dim=-1, descending=True, stable=True).indices
        ordered = shares.gather(-1, order)
        k = column([min(s.top_k or vocab, vocab) for s in settings], torch.int64)
        ordered = ordered.masked_fill(torch.arange(vocab, device=device) >= k, 0)
        totals = ordered.sum(dim=-1).tolist()
        lines = [math.ceil(s.top_p * total) for s, total in zip(settings, totals, strict=True)]
        # The token that crosses the line is the last to stay, so at least one always does.
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= column(lines, torch.int64), 0)
        shares = torch.zeros_like(shares).scatter_(-1, order, ordered)
    least = column([math.ceil(s.min_p * most) for s in settings], torch.int64)
    shares = shares.masked_fill(shares < least, 0)
    greedy = column([s.temperature == 0 for s in settings], torch.bool)
    first = torch.arange(vocab, device=device) == logits.argmax(dim=-1, keepdim=True)
    return torch.where(greedy, first.long(), shares)


def sample(
    logits: Tensor, settings: Sequence[SamplingSettings], uniforms: Sequence[float]
) -> list[int | None]:
    """`model.sampling.sample` by torch's operations alone, on all rows at once."""
    usable = logits.amax(dim=-1).isfinite()
    cumulative = _shares(logits.where(usable[:, None], 0.0), settings).cumsum(dim=-1)
    points = [
        min(int(uniform * total), total - 1)  # fp64 may round to the end
        for uniform, total in zip(uniforms, cumulative[:, -1].tolist(), strict=True)
    ]
    places = torch.searchsorted(
        cumulative, torch.tensor(points, device=logits.device)[:, None], right=True
    )
    tokens = places[:, 0].tolist()
    return [token if good else None for token, good in zip(tokens, usable.tolist(), strict=True)]
