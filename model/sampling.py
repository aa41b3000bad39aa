"""From logits to the next token, for rows that each have their own settings.

Logits pass through a list of processors (penalties, and whatever a request brings along) before a
token is drawn. `probabilities` says what each row is drawn from. On a CPU, `model.draws` comes to
the same in a fraction of the time, and computes for a row only what it asks for.

Each request brings the uniform number that its draw uses, from a generator of its own: what a row
gets depends on its seed and its logits, never on its neighbours, their number or the threads.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.draws import draw
from model.errors import UsageError

Processor = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
"""Changes the logits of one row: (logits (vocab,), prompt tokens, generated tokens) -> (vocab,).
It may write into what it is given. A token at -inf is never drawn."""


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
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids of the vocabulary, and what is added to the logit of each."""

    def __post_init__(self) -> None:
        for name, good, allowed in (
            ("temperature", 0 <= self.temperature <= _MOST, "in [0, 1e6]"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            ("repetition_penalty", 1 / _MOST <= self.repetition_penalty <= _MOST, "in [1e-6, 1e6]"),
            ("presence_penalty", abs(self.presence_penalty) <= _MOST, "in [-1e6, 1e6]"),
            ("frequency_penalty", abs(self.frequency_penalty) <= _MOST, "in [-1e6, 1e6]"),
            ("logit_bias", all(abs(b) <= _MOST for _, b in self.logit_bias), "in [-1e6, 1e6]"),
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


class Penalties:
    """The three penalties of one request: a processor that counts each new token once.

    It is for one sequence, whose tokens only grow from call to call.
    """

    def __init__(self, settings: SamplingSettings) -> None:
        self._settings = settings
        self._places: dict[int, int] = {}  # of the tokens in the arrays
        self._tokens = np.empty(0, np.int64)
        self._counts = np.empty(0, np.float32)  # among the generated; 0 is in the prompt alone
        self._prompt_done = False
        self._done = 0  # generated tokens that are counted

    def __call__(self, logits: Tensor, prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
        """Change the `logits`, (vocab,), of the next token in place."""
        self._count(prompt, generated)
        if not self._places:
            return logits
        settings, device = self._settings, logits.device
        tokens = torch.from_numpy(self._tokens).to(device)
        values = logits[tokens]
        factor = settings.repetition_penalty
        if factor != 1.0:
            values = torch.where(values > 0, values / factor, values * factor)
        taken = settings.frequency_penalty * self._counts
        taken += np.float32(settings.presence_penalty) * (self._counts > 0)
        values = values - torch.from_numpy(taken).to(device)
        logits[tokens] = values.to(logits.dtype)
        return logits

    def _count(self, prompt: Sequence[int], generated: Sequence[int]) -> None:
        if not self._prompt_done and self._settings.repetition_penalty != 1.0:
            self._add(list(dict.fromkeys(prompt)))
        self._prompt_done = True
        new = generated[self._done :]
        self._add([token for token in dict.fromkeys(new) if token not in self._places])
        for token in new:
            self._counts[self._places[token]] += 1
        self._done = len(generated)

    def _add(self, tokens: list[int]) -> None:
        """Make room for tokens that were not seen before."""
        if tokens:
            first = len(self._places)
            self._places.update((token, first + i) for i, token in enumerate(tokens))
            self._tokens = np.append(self._tokens, np.array(tokens, np.int64))
            self._counts = np.append(self._counts, np.zeros(len(tokens), np.float32))


class LogitBias:
    """A processor that adds a number of their own to the logits of some tokens."""

    def __init__(self, settings: SamplingSettings) -> None:
        self._tokens = torch.tensor([token for token, _ in settings.logit_bias])
        self._values = torch.tensor([value for _, value in settings.logit_bias])

    def __call__(self, logits: Tensor, prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
        """Change the `logits`, (vocab,), of the next token in place."""
        tokens, values = self._tokens.to(logits.device), self._values.to(logits)
        return logits.index_add_(0, tokens, values)


def penalise(
    logits: Tensor, settings: SamplingSettings, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    """Apply the three penalties to one row, once.

    Args:
        logits: (vocab,)
        prompt, generated: token ids.

    Returns:
        (vocab,), a new tensor
    """
    return Penalties(settings)(logits.clone(), prompt, generated)


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
    """One token for each row: the inverse of its distribution function at its uniform number.

    Args:
        logits: (rows, vocab), after the processors.
        settings: one for each row.
        uniforms: a number in [0, 1) for each row; unused where the temperature is 0.

    Returns:
        the token ids; None for a row with a logit that is not a number or +inf, or all at -inf
    """
    if logits.device.type != "cpu":
        return _sample_anywhere(logits, settings, uniforms)
    return [
        draw(
            row,
            uniform,
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
        )
        for row, wanted, uniform in zip(
            logits.float().contiguous().numpy(), settings, uniforms, strict=True
        )
    ]


def _sample_anywhere(
    logits: Tensor, settings: Sequence[SamplingSettings], uniforms: Sequence[float]
) -> list[int | None]:
    """`sample` by torch's operations alone, on all rows at once: what other devices are good at."""
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
