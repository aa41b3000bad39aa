"""A base with what is tuned on it."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Attends
from model.classifier import ClassifierHead
from model.lora import LoRA
from model.transformer import Transformer


@dataclass(frozen=True)
class Network:
    """A base with an adapter and a head on it, or without; what fine-tunings and evaluation run."""

    model: Transformer
    lora: LoRA | None = None
    head: ClassifierHead | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    def hidden(
        self, tokens: Tensor, cache: Attends | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """(batch, time) -> (batch, time, n_embd); with a cache and positions, of flat tokens."""
        out: Tensor = self.model(tokens, positions=positions, cache=cache, adapters=self.lora)
        return out

    def to(self, device: torch.device | str) -> "Network":
        """The same on `device`; what is there already is not copied."""
        if torch.device(device) == self.device:
            return self
        parts = (self.model, self.lora, self.head)
        model, lora, head = (copy.deepcopy(part).to(device) if part else None for part in parts)
        assert isinstance(model, Transformer)
        return Network(model, lora, head)  # type: ignore[arg-type]
