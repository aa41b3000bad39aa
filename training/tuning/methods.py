"""What all fine-tuning shares: which weights learn, and how the result is published.

lora         adapters on every projection, with the head if there is one; the base stays
head         the head alone; published as an adapter of rank 0
last-block   the last block, the last norm and the head; a checkpoint of its own
full         every weight; a checkpoint of its own
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from model.checkpoint import Base, is_adapter, load_base
from model.classifier import ClassifierHead, Labels
from model.errors import DataError, UsageError
from model.lora import LoRA, LoRASettings
from model.transformer import Block, Transformer
from training.loop.prepare import prepare
from training.loop.settings import LoopSettings
from training.tuning.network import Network


@dataclass(frozen=True)
class Method:
    """Which weights learn. Each field is a flag."""

    name: str = "lora"
    """`--method`; the module's docstring says what there is."""
    rank: int | None = None
    """`--lora-rank`: of the adapters; 16 if nothing is said."""
    alpha: float | None = None
    """`--lora-alpha`: their scale times rank; by default 2 × rank."""
    targets: tuple[str, ...] = ()
    """`--lora-targets`: layers that have one; by default all that the network has."""

    def check(self, allowed: Sequence[str], settings: LoopSettings) -> None:
        """
        Raises:
            UsageError: a task does not know this method, or a value is not allowed.
        """
        if self.name not in allowed:
            raise UsageError(f"--method is {self.name!r}; it must be one of {', '.join(allowed)}")
        if self.name == "head" and settings.dropout:
            raise UsageError(
                f"--dropout is {settings.dropout}; with --method head nothing has dropout"
            )
        if self.name == "lora" and self.rank is not None and self.rank < 1:
            raise UsageError(f"--lora-rank is {self.rank}; with --method lora it must be above 0")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise UsageError(f"--lora-alpha is {self.alpha}; it must be a finite number")
        self.adapters(settings)

    def adapters(self, settings: LoopSettings) -> LoRASettings:
        """The shape of the adapters."""
        rank = 16 if self.rank is None else self.rank
        alpha = 2.0 * rank if self.alpha is None else self.alpha
        return LoRASettings(rank, alpha, self.targets, settings.dropout)


@dataclass(frozen=True)
class Tuning:
    """A network in training."""

    base: Base
    """As it was loaded: fp32, on the CPU."""
    method: str
    network: Network
    trained: nn.ModuleDict
    """What `training.loop.run` trains and saves; frozen parameters in it have no gradient."""


def start_tuning(
    base: Base, method: str, lora: LoRASettings, labels: Labels | None, settings: LoopSettings
) -> Tuning:
    """Freeze what the method leaves alone, and make the rest, drawn from the seed on the CPU.

    A head is fresh and always learns. `settings.dropout` acts on the input of the adapters, or on
    the network where the network itself learns.

    Raises:
        UsageError: the adapters' rank is above the network's width.
    """
    if method == "lora" and lora.rank > base.config.n_embd:
        raise UsageError(
            f"--lora-rank is {lora.rank}; it must be at most {base.config.n_embd}, "
            "the width of the base"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    device = settings.torch_device
    head = None
    if labels is not None:
        head = ClassifierHead(base.config.n_embd, labels)
        head.init_weights(generator)
        head.to(device)
    trained: dict[str, nn.Module] = {} if head is None else {"head": head}
    if method in ("lora", "head"):
        model = Network(base.model).to(device).model.requires_grad_(False)
        prepare(model, settings)
        adapter = LoRA(base.config, lora if method == "lora" else LoRASettings(rank=0))
        adapter.init_weights(generator)
        trained["lora"] = adapter.to(device)
        return Tuning(base, method, Network(model, adapter, head), nn.ModuleDict(trained))
    model = Transformer(base.config, settings.dropout)
    model.load_state_dict(base.model.state_dict())
    model.to(device).requires_grad_(method == "full")
    prepare(model, settings)
    if method == "last-block":
        model.blocks[-1].requires_grad_(True)
        model.norm.requires_grad_(True)
        # What stays as it is has no dropout either: its output for a text is always the same.
        model.dropout.p = 0.0
        for module in model.blocks[:-1].modules():
            if isinstance(module, Block):
                module.dropout.p = module.attention.dropout = 0.0
    trained["model"] = model
    return Tuning(base, method, Network(model, None, head), nn.ModuleDict(trained))


def load_tunable(path: Path) -> Base:
    """The base of `--base`, in fp32 as it was saved.

    Raises:
        UsageError: it is an adapter.
        CheckpointError: it cannot be loaded.
    """
    if is_adapter(path):
        raise UsageError(f"--base {path} is an adapter; give the base that it belongs to")
    return load_base(path)


def report_parts(
    noun: str,
    sizes: Mapping[str, int],
    *,
    paths: Sequence[Path],
    limit: int,
    rows: int,
    duplicates: int,
) -> None:
    """Say how many rows (or pairs: `noun`) there are.

    Args:
        limit: tokens of a row.

    Raises:
        DataError: nothing of a part fits.
    """
    for name, size in sizes.items():
        if not size:
            raise DataError(
                f"{', '.join(map(str, paths))}: none of the {noun} of the {name} part fits into "
                f"{limit:,} tokens (--max-length)"
            )
    print(
        f"{rows} {noun}, {duplicates} repeated and dropped; "
        + ", ".join(f"{size} {name}" for name, size in sizes.items())
    )
