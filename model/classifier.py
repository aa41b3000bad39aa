"""The classification head: from the hidden states of a text to label probabilities.

It reads the hidden state of the last real token, the only one that has seen the whole text (the
last position of a padded row would be padding); or beside that the mean over all tokens, in which
what was seen early weighs as much as what was seen late.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.architecture import Architecture
from model.errors import UsageError

BIAS = "score.bias"
"""The tensor that a file of a head without a bias lacks."""
POOLINGS = ("last", "last-mean")
"""What a head reads: the last token's hidden state, or that and the mean over all tokens."""
UNSURE = "unsure"
"""What a text is called whose probability is within the band that a user chose."""


@dataclass(frozen=True)
class Labels:
    """What the outputs of a head mean, and how probabilities become a decision."""

    names: tuple[str, ...]
    """The labels, in the order of the head's outputs."""
    positive: str | None = None
    """With two labels, the one that must reach `threshold`; else None."""
    threshold: float = 0.5
    """Probability from which a text is given the positive label."""
    temperature: float = 1.0
    """Divides the logits (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise UsageError(f"labels are {list(self.names)}; there must be two or more, distinct")
        if self.positive is not None and (len(self.names) != 2 or self.positive not in self.names):
            raise UsageError(f"positive label {self.positive!r} must be one of two labels")
        if not 0 < self.threshold < 1:
            raise UsageError(f"threshold is {self.threshold}; it must be between 0 and 1")
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}; it must be above 0")

    def decide(self, probabilities: Sequence[float], threshold: float | None = None) -> str:
        """The label of one text.

        Args:
            probabilities: one for each label.
            threshold: used in place of the trained one. Without a positive label, the most
                probable label is the answer and a threshold has no meaning.
        """
        if self.positive is None:
            return self.names[max(range(len(self.names)), key=lambda i: probabilities[i])]
        index = self.names.index(self.positive)
        limit = self.threshold if threshold is None else threshold
        return self.names[index if probabilities[index] >= limit else 1 - index]

    def unsure(self, probabilities: Sequence[float], band: tuple[float, float]) -> bool:
        """Whether the probability that decides is at least the first of `band`, and below the
        second: that of the positive label, or without one the largest."""
        if self.positive is None:
            deciding = max(probabilities)
        else:
            deciding = probabilities[self.names.index(self.positive)]
        return band[0] <= deciding < band[1]


def has_bias(config: Architecture) -> bool:
    """Whether a new head on such a network has a bias.

    The classifiers of `transformers` have none, so on export a head's moves into the last norm's
    own. RMS norm has none; a bias on it could not be exported.
    """
    return config.norm != "rms"


class ClassifierHead(nn.Module):
    """A linear layer on the pooled hidden states, trained in full beside whatever else is.

    Args:
        bias: whether each label has a number that is added to its logit; see `has_bias`.
        pooling: one of `POOLINGS`; features are n_embd or twice as many.
    """

    def __init__(
        self, n_embd: int, labels: Labels, *, bias: bool = True, pooling: str = "last"
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UsageError(f"pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")
        self.labels, self.pooling = labels, pooling
        features = 2 * n_embd if self.reads_all else n_embd
        self.score = nn.Linear(features, len(labels.names), bias=bias)

    @property
    def reads_all(self) -> bool:
        """Whether it needs the hidden states of all tokens, and not of the last one only."""
        return self.pooling == "last-mean"

    @property
    def biased(self) -> bool:
        return self.score.bias is not None

    def init_weights(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.score.weight, 0.0, 0.02, generator=generator)
        if self.biased:
            nn.init.zeros_(self.score.bias)

    def pool(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """What it reads of each row.

        Args:
            hidden: (batch, time, n_embd)
            lengths: (batch,), real tokens of each row, at least 1

        Returns:
            (batch, features)
        """
        last = last_token(hidden, lengths)
        if not self.reads_all:
            return last
        lengths = lengths.to(hidden.device)[:, None]
        real = torch.arange(hidden.shape[1], device=hidden.device) < lengths
        return self.joined(last, (hidden.double() * real[..., None]).sum(1), lengths)

    def joined(self, last: Tensor, total: Tensor, count: Tensor | int) -> Tensor:
        """The same, where the hidden states were added up.

        Args:
            last: (batch, n_embd), of the last token.
            total: (batch, n_embd) fp64, over all tokens.
            count: how many they are.
        """
        return torch.cat([last, (total / count).to(last.dtype)], dim=-1)

    def forward(self, pooled: Tensor) -> Tensor:
        """(rows, features) -> (rows, labels), logits before calibration"""
        out: Tensor = self.score(pooled)
        return out

    def calibrated(self, pooled: Tensor) -> Tensor:
        """(rows, features) -> (rows, labels) fp32, logits divided by the temperature"""
        logits: Tensor = self(pooled)
        return logits.float() / self.labels.temperature

    def probabilities(self, pooled: Tensor) -> Tensor:
        """(rows, features) -> (rows, labels), calibrated; rows sum to 1"""
        return torch.softmax(self.calibrated(pooled), dim=-1)


def last_token(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The hidden state of each row's last real token.

    Args:
        hidden: (batch, time, n_embd)
        lengths: (batch,), at least 1

    Returns:
        (batch, n_embd)
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, lengths.to(hidden.device) - 1]
