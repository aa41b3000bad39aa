"""How a token knows its place: a learned embedding, or a rotation of queries and keys.

Both kinds answer the same two questions, so that the network need not know which one it has: what
is added to the embeddings (`add`), and by which angles queries and keys are turned (`angles`).
"""

import torch
from torch import Tensor, nn

from model.architecture import Architecture
from model.fused import by_hand, turn
from model.projection import Embedding
from model.rope import frequencies

Places = Tensor | slice
"""Positions of tokens: of each its own, or a run of them."""
Angles = tuple[Tensor, Tensor]
"""Cosines and sines, (…, head_dim / 2) each, in fp32."""


class LearnedPositions(Embedding):
    """An embedding for each position, as in GPT-2."""

    def __init__(self, config: Architecture) -> None:
        super().__init__(config.context_length, config.n_embd)

    def add(self, x: Tensor, at: Places) -> Tensor:
        """`x`, (…, n_embd), with the embeddings of its positions added."""
        return x + self.weight[at]

    def angles(self, at: Places, device: torch.device) -> None:
        """Nothing is turned."""


class RotaryPositions(nn.Module):
    """Angles by which pairs of a head's numbers are turned (Su et al., "RoFormer", 2021).

    They are read from a table: computed anew for each batch, the low bits of a sine would depend on
    where in the batch it stands.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        assert config.rope is not None
        self.rope = config.rope
        self.pairs = config.head_dim // 2
        self.context_length = config.context_length
        self._tables: dict[torch.device, Angles] = {}

    def add(self, x: Tensor, at: Places) -> Tensor:
        """`x` as it is."""
        return x

    def angles(self, at: Places, device: torch.device) -> Angles:
        """Of each of the positions `at`."""
        if device not in self._tables:
            self._tables[device] = self._make_table(device)
        cosines, sines = self._tables[device]
        return cosines[at], sines[at]

    @torch.inference_mode(False)  # a table made while serving must do for training, too
    def _make_table(self, device: torch.device) -> Angles:
        """(context_length, head_dim / 2) each."""
        with torch.device("cpu"):
            positions = torch.arange(self.context_length, dtype=torch.float32)
            angles = positions[:, None] * frequencies(self.rope, self.pairs)
        return angles.cos().to(device), angles.sin().to(device)


def make_positions(config: Architecture) -> LearnedPositions | RotaryPositions:
    """The kind that the architecture asks for."""
    return LearnedPositions(config) if config.rope is None else RotaryPositions(config)


def rotate(x: Tensor, angles: Angles | None) -> Tensor:
    """Turn the pairs (x[i], x[i + head_dim / 2]) of each head.

    Args:
        x: (…, head, head_dim)
        angles: (…, head_dim / 2), the same for all heads.

    Returns:
        (…, head, head_dim), in the dtype of `x`
    """
    assert angles is not None, "rotary positions have angles"
    cosines, sines = (part.unsqueeze(-2) for part in angles)
    if by_hand(x):
        return turn(x, cosines, sines)
    first, second = x.chunk(2, dim=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(turned, dim=-1).to(x.dtype)
