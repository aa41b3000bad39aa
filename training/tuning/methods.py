"""What all fine-tuning shares: which weights learn, and how the result is published.

lora         adapters on every projection, with the head if there is one; the base stays
head         the head alone; published as an adapter of rank 0
last-block   the last block, the last norm and the head; a checkpoint of its own
full         every weight; a checkpoint of its own
"""

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from model.checkpoint import Adapter, Base, is_adapter, load_base, save_adapter, save_base
from model.checkpoint.files import check_target, check_writable
from model.classifier import ClassifierHead, Labels
from model.errors import DataError, UsageError
from model.lora import TARGETS, LoRA, LoRASettings
from model.transformer import Block, Transformer
from training.loop.dry_run import add_argument as add_dry_run
from training.loop.prepare import prepare
from training.loop.run import Progress
from training.loop.settings import LoopSettings
from training.tuning.card import run_fields
from training.tuning.network import Network

SAVED_DTYPE = torch.bfloat16


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


def round_as_saved(module: nn.Module) -> None:
    """Round all weights to what a checkpoint holds, so that what is measured is what is saved."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(SAVED_DTYPE))


def publish(
    out: Path, tuning: Tuning, task: Literal["classify", "instruct"], card: dict[str, Any]
) -> Base | Adapter:
    """Write the checkpoint: an adapter, or a base of its own."""
    network = tuning.network.to("cpu")
    if network.lora is not None:
        return save_adapter(
            out,
            tuning.base,
            task=task,
            lora=network.lora,
            head=network.head,
            card=card,
            dtype=SAVED_DTYPE,
        )
    return save_base(
        out,
        network.model,
        tuning.base.tokenizer,
        card=card,
        dtype=SAVED_DTYPE,
        head=network.head,
        task=task,
    )


def add_arguments(parser: argparse.ArgumentParser, methods: Sequence[str]) -> None:
    """The flags that all fine-tunings share, those of the loop aside."""
    parser.add_argument("--base", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="data files")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to publish")
    parser.add_argument("--run", type=Path, help="directory of the run (default: OUT.run)")
    parser.add_argument("--method", default="lora", help=f"one of {', '.join(methods)} (lora)")
    parser.add_argument("--resume", action="store_true", help="go on from the saved state")
    add_dry_run(parser)
    parser.add_argument("--lora-rank", type=int, default=16, help="rank of the adapters (16)")
    parser.add_argument("--lora-alpha", type=float, help="their scale times rank (2 × rank)")
    parser.add_argument(
        "--lora-targets",
        nargs="+",
        default=[],
        metavar="LAYER",
        help=f"among {', '.join(TARGETS)} (all that the network has)",
    )
    parser.add_argument(
        "--licence", action="append", default=[], help="source and licence of data, for the card"
    )


def lora_settings(args: argparse.Namespace, settings: LoopSettings) -> LoRASettings:
    """The adapters' shape that the flags ask for.

    Raises:
        UsageError: a flag has a value that is not allowed.
    """
    if args.method == "lora" and args.lora_rank < 1:
        raise UsageError(f"--lora-rank is {args.lora_rank}; with --method lora it must be above 0")
    alpha = 2.0 * args.lora_rank if args.lora_alpha is None else args.lora_alpha
    if not math.isfinite(alpha):
        raise UsageError(f"--lora-alpha is {alpha}; it must be a finite number")
    return LoRASettings(args.lora_rank, alpha, tuple(args.lora_targets), settings.dropout)


def check_flags(args: argparse.Namespace, methods: Sequence[str], settings: LoopSettings) -> None:
    """What can be said before anything is read or trained.

    Raises:
        UsageError: there is no such method, or it has no use for a flag, or the checkpoint could
            not be published or would take the base's place.
    """
    check_target(args.out)
    keep_apart(args.out, "--base", args.base)
    if args.method not in methods:
        raise UsageError(f"--method is {args.method!r}; it must be one of {', '.join(methods)}")
    if args.method == "head" and settings.dropout:
        raise UsageError(f"--dropout is {settings.dropout}; with --method head nothing has dropout")


def keep_apart(out: Path, flag: str, used: Path) -> None:
    """Let publishing at `--out` leave the checkpoint `used`, which `flag` names, as it is.

    Raises:
        UsageError: it would not.
    """
    one, other = out.resolve(), used.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(
            f"--out {out} is, holds or lies in {flag} {used}, which would be replaced or altered; "
            "name a directory beside it"
        )


def load_tunable(path: Path) -> Base:
    """The base of `--base`, in fp32 as it was saved.

    Raises:
        UsageError: it is an adapter.
        CheckpointError: it cannot be loaded.
    """
    if is_adapter(path):
        raise UsageError(f"--base {path} is an adapter; give the base that it belongs to")
    return load_base(path)


def run_directory(args: argparse.Namespace) -> Path:
    """Of `--run`, or beside `--out`; also of a pretraining.

    Raises:
        UsageError: nothing can be written there.
    """
    directory: Path = args.run or Path(os.path.abspath(args.out) + ".run")
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--run {directory} is a file; name a directory")
    check_writable(directory, "--run")
    return directory


def identity(args: argparse.Namespace, tuning: Tuning, sources: Sequence[Any]) -> dict[str, Any]:
    """What a resumed run must share with the first, beside the loop's settings."""
    lora = tuning.network.lora
    adapters = None
    if lora is not None:
        adapters = {**asdict(lora.settings), "targets": sorted(site.name for site in lora.sites)}
    return {
        "base": tuning.base.id,
        "data": list(sources),
        "method": args.method,
        "lora": adapters,
    }


def card_fields(
    args: argparse.Namespace, tuning: Tuning, settings: LoopSettings, progress: Progress
) -> dict[str, Any]:
    """What every fine-tuned checkpoint's card says of how it was made."""
    network = tuning.network
    learnt = sum(p.numel() for p in tuning.trained.parameters() if p.requires_grad)
    return {
        **run_fields(args, settings, progress),
        "base": {"name": tuning.base.path.resolve().name, "sha256": tuning.base.id},
        "method": args.method,
        "trained_parameters": learnt,
        "lora": None if network.lora is None else asdict(network.lora.settings),
    }


def report_parts(
    noun: str,
    sizes: Mapping[str, int],
    *,
    paths: Sequence[Path],
    context: int,
    rows: int,
    duplicates: int,
    too_long: int,
) -> None:
    """Say how many rows (or pairs: `noun`) there are, and on stderr how many are too long.

    Raises:
        DataError: nothing of a part fits.
    """
    if too_long:
        print(
            f"{too_long} {noun} are left out: with prompt and response they are longer than the "
            f"context of {context} tokens",
            file=sys.stderr,
        )
    for name, size in sizes.items():
        if not size:
            raise DataError(
                f"{', '.join(map(str, paths))}: none of the {noun} of the {name} part fits the "
                f"context of {context} tokens"
            )
    print(
        f"{rows} {noun}, {duplicates} repeated and dropped; "
        + ", ".join(f"{size} {name}" for name, size in sizes.items())
    )
