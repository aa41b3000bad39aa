"""How one request draws its tokens."""

import random
from dataclasses import dataclass

from model.errors import UsageError

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
