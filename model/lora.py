"""Low-rank adapters (Hu et al., "LoRA", 2021): a small change of a frozen network.

An adapter is a module of its own that the network's projections are given with each call. Nothing
is wrapped: the base stays as it was loaded, training moves only what is in the adapter, and rows of
one batch can have different adapters. Rows of a batch here are tokens: `x` is (…, in_features).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPTConfig
from model.errors import UsageError
from model.gpt import GPT, linear

TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")

PEFT_PREFIX = "base_model.model.transformer."
"""Before the names of GPT-2's layers in the files of the package `peft`."""


@dataclass(frozen=True)
class LoRASettings:
    """Shape of an adapter."""

    rank: int = 16
    """Rank of each change; 0 is an adapter that changes nothing (a head alone)."""
    alpha: float = 32.0
    """The change is scaled by alpha / rank."""
    targets: tuple[str, ...] = TARGETS
    """Which projections of every block are changed."""
    dropout: float = 0.0
    """Of the adapter's input, in training mode only."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UsageError(f"--lora-rank is {self.rank}; it must be at least 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--lora-dropout is {self.dropout}; it must be in [0, 1)")
        for target in self.targets:
            if target not in TARGETS:
                raise UsageError(
                    f"--lora-targets has {target!r}; it must be among {', '.join(TARGETS)}"
                )


def _layers(model_config: GPTConfig, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(in_features, out_features) of each layer that `targets` names, by its path."""
    width = model_config.n_embd
    sizes = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }
    return {
        f"h.{layer}.{target}": sizes[target]
        for layer in range(model_config.n_layer)
        for target in targets
    }


class LoRA(nn.Module):
    """One adapter: for each target layer a pair A (rank, in) and B (out, rank)."""

    def __init__(self, model_config: GPTConfig, settings: LoRASettings) -> None:
        super().__init__()
        self.settings = settings
        self.tile: int | None = None  # rows of every product, as in `model.gpt.linear`
        self.scale = settings.alpha / settings.rank if settings.rank else 0.0
        layers = _layers(model_config, settings.targets) if settings.rank else {}
        # Parameter names hold no dots, so the path's dots are written as slashes.
        self.a = nn.ParameterDict(
            {_key(p): torch.zeros(settings.rank, size[0]) for p, size in layers.items()}
        )
        self.b = nn.ParameterDict(
            {_key(p): torch.zeros(size[1], settings.rank) for p, size in layers.items()}
        )

    def init_weights(self, generator: torch.Generator) -> None:
        """A as PEFT draws it (Kaiming-uniform with a = sqrt(5)), B zero: at first no change."""
        for a in self.a.values():
            bound = 1 / math.sqrt(a.shape[1])
            nn.init.uniform_(a, -bound, bound, generator=generator)
        for b in self.b.values():
            nn.init.zeros_(b)

    def delta(self, layer: str, x: Tensor) -> Tensor | None:
        """What the adapter adds to the output of `layer` for `x`; None if it is no target."""
        key = _key(layer)
        if key not in self.a:
            return None
        x = F.dropout(x, self.settings.dropout, self.training)
        down = linear(x, self.a[key], None, self.tile)
        return linear(down, self.b[key], None, self.tile) * self.scale

    def adapt(self, layer: str, x: Tensor, y: Tensor) -> Tensor:
        """`y` with this adapter added in every row: an adapter by itself adapts a whole batch."""
        delta = self.delta(layer, x)
        return y if delta is None else y + delta

    def change(self, layer: str) -> tuple[Tensor, Tensor] | None:
        """A (rank, in) and B (out, rank) of `layer`, the scale multiplied into B; None if it is no
        target."""
        key = _key(layer)
        return (self.a[key], self.b[key] * self.scale) if key in self.a else None

    def paths(self) -> list[str]:
        """Paths of the layers that this adapter changes."""
        return [key.replace("/", ".") for key in self.a]

    def peft_weights(self) -> dict[str, Tensor]:
        """The matrices under the names that PEFT gives them; files are written so."""
        weights = {}
        for path in self.paths():
            weights[f"{PEFT_PREFIX}{path}.lora_A.weight"] = self.a[_key(path)]
            weights[f"{PEFT_PREFIX}{path}.lora_B.weight"] = self.b[_key(path)]
        return weights

    @torch.no_grad()
    def merge_into(self, model: GPT) -> None:
        """Add the change to the weights of `model`, which then needs no adapter."""
        for path in self.paths():
            key = _key(path)
            weight = model.get_submodule(path).weight
            assert isinstance(weight, Tensor)
            delta = self.b[key].float() @ self.a[key].float() * self.scale
            weight += delta.to(weight.dtype)


class AdapterRows:
    """Different adapters for different rows of a flat batch.

    Args:
        groups: the adapter of each run of neighbouring rows, with the run's rows. Rows outside
            every group get the base alone.
    """

    def __init__(self, groups: Sequence[tuple[LoRA, slice]]) -> None:
        self.groups = tuple(groups)

    def adapt(self, layer: str, x: Tensor, y: Tensor) -> Tensor:
        for lora, rows in self.groups:
            delta = lora.delta(layer, x[rows])
            if delta is not None:
                y[rows] += delta
        return y


def name_of_peft(name: str) -> str:
    """Our name of the tensor that `LoRA.peft_weights` calls `name`; other names stay."""
    if not name.startswith(PEFT_PREFIX) or not name.endswith((".lora_A.weight", ".lora_B.weight")):
        return name
    layer, part, _ = name.removeprefix(PEFT_PREFIX).rsplit(".", 2)
    return f"{'a' if part == 'lora_A' else 'b'}.{_key(layer)}"


def _key(path: str) -> str:
    return path.replace(".", "/")
