"""From logits to the next token, for rows that each have their own settings.

Logits pass through a list of processors (penalties, and whatever a request brings along) before a
token is drawn. Everything here works on all rows at once; what no row asks for is not computed.

Each request brings the uniform number that its draw uses, from a generator of its own: what a row
gets depends on its seed and its logits, never on its neighbours.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import UsageError

Processor = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
"""Changes the logits of one row: (logits (vocab,), prompt tokens, generated tokens) -> (vocab,)."""


_MOST = 1e6
"""Bound of the settings that have no other: logits stay far from what fp32 cannot hold, where a
row would become not-a-number."""


@dataclass(frozen=True)
class SamplingSettings:
    """How one request draws its tokens. The defaults draw from the model's own distribution."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token."""
    top_k: int | None = None
    """Keep the k most probable tokens; None keeps all, as does more than there are."""
    top_p: float = 1.0
    """Keep the smallest set of most probable tokens that has this probability together."""
    min_p: float = 0.0
    """Keep tokens at least this share as probable as the most probable one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or the text so far
    (Keskar et al., CTRL, 2019)."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that were generated before."""
    frequency_penalty: float = 0.0
    """The same for each time that the token was generated."""
    seed: int | None = None
    """Of the draws; None is a fresh one."""

    def __post_init__(self) -> None:
        for name, good, allowed in (
            ("temperature", 0 <= self.temperature <= _MOST, "in [0, 1e6]"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            ("repetition_penalty", 1 / _MOST <= self.repetition_penalty <= _MOST, "in [1e-6, 1e6]"),
            ("presence_penalty", abs(self.presence_penalty) <= _MOST, "in [-1e6, 1e6]"),
            ("frequency_penalty", abs(self.frequency_penalty) <= _MOST, "in [-1e6, 1e6]"),
        ):
            if not good:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {allowed}")

    @property
    def penalises(self) -> bool:
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    def generator(self) -> random.Random:
        """The source of this request's draws."""
        return random.Random(self.seed)


def penalise(
    logits: Tensor, settings: SamplingSettings, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    """Apply the three penalties to one row.

    Args:
        logits: (vocab,)
        prompt, generated: token ids.

    Returns:
        (vocab,), a new tensor
    """
    logits = logits.clone()
    device = logits.device
    if settings.repetition_penalty != 1.0 and (prompt or generated):
        seen = torch.unique(torch.tensor([*prompt, *generated], device=device))
        values = logits[seen]
        factor = settings.repetition_penalty
        logits[seen] = torch.where(values > 0, values / factor, values * factor)
    if generated and (settings.presence_penalty or settings.frequency_penalty):
        tokens, counts = torch.unique(torch.tensor(generated, device=device), return_counts=True)
        logits[tokens] -= settings.presence_penalty + settings.frequency_penalty * counts
    return logits


def probabilities(logits: Tensor, settings: Sequence[SamplingSettings]) -> Tensor:
    """The distribution that each row draws from, after temperature, top-k, top-p and min-p.

    Filters apply in that order, each to what the one before left. A temperature of 0 gives a
    distribution with all its weight on the first of the most probable tokens.

    Args:
        logits: (rows, vocab)
        settings: one for each row.

    Returns:
        (rows, vocab) fp32; rows sum to 1
    """
    vocab = logits.shape[-1]
    device = logits.device

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.float32)[:, None]

    greedy = column([s.temperature == 0 for s in settings]).bool()
    # A temperature too small for fp32 would divide by zero.
    scaled = logits.float() / column([max(s.temperature or 1.0, 1e-20) for s in settings])
    result = torch.softmax(scaled, dim=-1)
    if any(s.top_k or s.top_p < 1 for s in settings):
        ordered, order = result.sort(dim=-1, descending=True, stable=True)
        k = column([min(s.top_k or vocab, vocab) for s in settings])
        ordered = ordered.masked_fill(torch.arange(vocab, device=device) >= k, 0.0)
        ordered /= ordered.sum(dim=-1, keepdim=True)
        # The token that crosses the line is the last to stay, so at least one always does.
        before = ordered.cumsum(dim=-1) - ordered
        top_p = column([s.top_p for s in settings])
        dropped = (before >= top_p) & (top_p < 1)
        dropped[:, 0] = False  # where top_p is too small for fp32, too
        ordered = ordered.masked_fill(dropped, 0.0)
        result = torch.zeros_like(result).scatter_(-1, order, ordered)
    if any(s.min_p for s in settings):
        least = column([s.min_p for s in settings]) * result.amax(dim=-1, keepdim=True)
        result = result.masked_fill(result < least, 0.0)
    result = result / result.sum(dim=-1, keepdim=True)
    best = torch.zeros_like(result).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    return torch.where(greedy, best, result)


def sample(
    logits: Tensor, settings: Sequence[SamplingSettings], uniforms: Sequence[float]
) -> list[int]:
    """One token for each row.

    Args:
        logits: (rows, vocab), after the processors.
        settings: one for each row.
        uniforms: a number in [0, 1) for each row; unused where the temperature is 0.

    Returns:
        the token ids
    """
    if all(s.temperature == 0 for s in settings):
        return [int(token) for token in logits.argmax(dim=-1).tolist()]
    # Inverse of the distribution function: one uniform number makes one draw. In fp64, so that a
    # long tail of small probabilities is not rounded away.
    cumulative = probabilities(logits, settings).double().cumsum(dim=-1)
    points = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
    points = points * cumulative[:, -1:]
    return [
        int(token) for token in torch.searchsorted(cumulative, points, right=True)[:, 0].tolist()
    ]
