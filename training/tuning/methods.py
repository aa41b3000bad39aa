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
from model.classifier import ClassifierHead, Labels, has_bias
from model.errors import CheckpointError, DataError, UsageError
from model.frozen import Held, exchange, hold
from model.lora import LoRA, LoRASettings
from model.transformer import Block, Transformer
from training.loop import state as saved_state
from training.loop.prepare import prepare
from training.loop.settings import LoopSettings
from training.tuning.network import Network

FROZEN = ("auto", "fp32", "bf16", "int8")
_ON_A_FROZEN_BASE = ("lora", "head")


@dataclass(frozen=True)
class Method:
    """Which weights learn. Each field is a flag."""

    name: str = "lora"
    """`--method`; the module's docstring says what there is."""
    rank: int | None = None
    """`--lora-rank`: of the adapters; 16 if nothing is said."""
    alpha: float | None = None
    """`--lora-alpha`: their scale times what `scaling` divides it by; by default such that the
    scale is 2 at rank 16: twice the rank, and with the root of the rank 8."""
    targets: tuple[str, ...] = ()
    """`--lora-targets`: layers that have one; by default all that the network has."""
    frozen: str = "auto"
    """`--frozen`: how a base that stays as it is is held while something on it learns: fp32, bf16
    or int8 (see `model.frozen`); auto: bf16 where the run computes under bf16 autocast, which
    rounds to it anyway, else fp32."""
    scaling: str | None = None
    """`--lora-scaling`: what alpha is divided by: rank, if nothing is said, or sqrt-rank."""
    dora: bool = False
    """`--dora`: whether the length of each output channel is learnt by itself (`model.dora`)."""

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
        if self.dora and self.name != "lora":
            raise UsageError(f"--dora is of adapters; with --method {self.name} there are none")
        if self.frozen not in FROZEN:
            raise UsageError(f"--frozen is {self.frozen!r}; it must be one of {', '.join(FROZEN)}")
        if self.frozen != "auto" and self.name not in _ON_A_FROZEN_BASE:
            raise UsageError(
                f"--frozen is {self.frozen}; with --method {self.name} the base itself learns, so "
                "that it must be auto"
            )
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise UsageError(f"--lora-alpha is {self.alpha}; it must be a finite number")
        self.adapters(settings)

    def held(self, settings: LoopSettings, resumed: Path | None = None) -> Held:
        """How the base is held in training.

        Args:
            resumed: directory of the run that goes on. One of before there was a choice goes on as
                it began, in fp32.
        """
        if self.frozen == "auto" and resumed is not None and _saved_without(resumed, "frozen"):
            return "fp32"
        if self.frozen == "auto":
            return "bf16" if settings.autocast and self.name in _ON_A_FROZEN_BASE else "fp32"
        return self.frozen  # type: ignore[return-value]

    def adapters(self, settings: LoopSettings) -> LoRASettings:
        """The shape of the adapters."""
        rank = 16 if self.rank is None else self.rank
        scaling = self.scaling or "rank"
        alpha = 8.0 if scaling == "sqrt-rank" else 2.0 * rank
        if self.alpha is not None:
            alpha = self.alpha
        return LoRASettings(rank, alpha, self.targets, settings.dropout, scaling, self.dora)


@dataclass(frozen=True)
class Tuning:
    """A network in training."""

    base: Base
    """On the CPU; what learns on a frozen one shares its network, held as `held` says."""
    method: str
    network: Network
    trained: nn.ModuleDict
    """What `training.loop.run` trains and saves; frozen parameters in it have no gradient."""
    held: Held = "fp32"
    """How a frozen base is held in training."""

    def freeze(self) -> None:
        """Hold the base as training wants it; what it is held as already stays."""
        for model in self._frozen():
            hold(model, self.held)

    def settle(self) -> None:
        """Turn the adapter into what is published, by the base as training held it."""
        if self.network.lora is not None:
            self.network.lora.settle(self.network.model)

    def serve(self) -> None:
        """Hold the base as it is measured and published: with the numbers that are served.

        What was in bf16 is read again in fp32. What was in 8 bits is held as it is stored and
        widened for each product, which gives the bits of fp32 in half of its memory, if it is
        stored in 16 bits: all of it in fp32 may be more than there is.

        Raises:
            CheckpointError: it cannot be read any more, or is another base now.
        """
        if self.held != "fp32":
            as_served: Held = "fp32" if self.held == "bf16" else "stored"
            exchange(self._frozen(), lambda: self._again(as_served))

    def _again(self, held: Held) -> Transformer:
        again = load_base(self.base.path, held=held)
        if again.weights != self.base.weights:
            raise CheckpointError(
                f"{self.base.path}: is not the base any more that this run was trained on"
            )
        return again.model

    def _frozen(self) -> list[Transformer]:
        """The base's network, and its copy on another device if there is one."""
        if self.method not in _ON_A_FROZEN_BASE:
            return []
        both = (self.base.model, self.network.model)
        return list({id(model): model for model in both}.values())


def head_has_bias(base: Base, resumed: Path | None = None) -> bool:
    """Whether the head to be trained on a base has a bias.

    Args:
        resumed: directory of the run that goes on. One of before there was a choice goes on as it
            began, with a bias.
    """
    before = resumed is not None and _saved_without(resumed, "head_bias")
    return before or has_bias(base.config)


def _saved_without(run: Path, choice: str) -> bool:
    """Whether the run in this directory, or one of its folds, was saved before there was this
    choice in a run's identity."""
    for directory in (run, *sorted(run.glob("fold-*"))):
        if saved_state.last_state(directory).exists():
            return choice not in saved_state.load(directory)["identity"]
    return False


def start_tuning(
    base: Base,
    method: str,
    lora: LoRASettings,
    labels: Labels | None,
    settings: LoopSettings,
    held: Held = "fp32",
    *,
    biased: bool | None = None,
    pooling: str = "last",
) -> Tuning:
    """Freeze what the method leaves alone, and make the rest, drawn from the seed on the CPU.

    A head is fresh and always learns. `settings.dropout` acts on the input of the adapters, or on
    the network where the network itself learns.

    Args:
        held: how a frozen base is held; it is turned into that in place.
        biased: whether the head has a bias; by default as new heads on such a base.
        pooling: what the head reads.

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
        bias = has_bias(base.config) if biased is None else biased
        head = ClassifierHead(base.config.n_embd, labels, bias=bias, pooling=pooling)
        head.init_weights(generator)
        head.to(device)
    trained: dict[str, nn.Module] = {} if head is None else {"head": head}
    if method in _ON_A_FROZEN_BASE:
        hold(base.model, held)
        model = Network(base.model).to(device).model.requires_grad_(False)
        prepare(model, settings)
        adapter = LoRA(base.config, lora if method == "lora" else LoRASettings(rank=0))
        adapter.init_weights(generator)
        adapter.to(device).learn(model)
        trained["lora"] = adapter
        return Tuning(base, method, Network(model, adapter, head), nn.ModuleDict(trained), held)
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


def load_tunable(path: Path, held: Held | None = None) -> Base:
    """The base of `--base`, in fp32 as it was saved.

    Args:
        held: how it is held if it stays frozen: no fp32 copy of it is then made.

    Raises:
        UsageError: it is an adapter.
        CheckpointError: it cannot be loaded.
    """
    if is_adapter(path):
        raise UsageError(f"--base {path} is an adapter; give the base that it belongs to")
    return load_base(path, held=None if held == "fp32" else held)


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
