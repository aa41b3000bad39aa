"""How the result of a fine-tuning is published."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from model.checkpoint import Adapter, Base, save_adapter, save_base
from model.errors import UsageError
from model.prompts import Template
from training.data.splits import Parts
from training.tuning.card import text_splits
from training.tuning.methods import Tuning

SAVED_DTYPE = torch.bfloat16


def round_as_saved(module: nn.Module) -> None:
    """Round all weights to what a checkpoint holds, so that what is measured is what is saved."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(SAVED_DTYPE))


def publish(
    out: Path,
    tuning: Tuning,
    task: Literal["classify", "instruct"],
    card: dict[str, Any],
    parts: Parts,
    template: Template | None = None,
) -> Base | Adapter:
    """Write the checkpoint: an adapter, or a base of its own.

    Args:
        template: in which it was trained to read conversations, if it was.
    """
    network = tuning.network.to("cpu")
    kept = parts.content()
    if network.lora is not None:
        return save_adapter(
            out,
            tuning.base,
            task=task,
            lora=network.lora,
            head=network.head,
            card=card,
            dtype=SAVED_DTYPE,
            template=template,
            parts=kept,
        )
    return save_base(
        out,
        network.model,
        tuning.base.tokenizer,
        card=card,
        dtype=SAVED_DTYPE,
        head=network.head,
        task=task,
        template=template,
        parts=kept,
    )


def keep_apart(out: Path, flag: str, used: Path) -> None:
    """Let publishing at `--out` leave the directory `used`, which `flag` names, as it is.

    Raises:
        UsageError: it would not.
    """
    one, other = out.resolve(), used.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(
            f"--out {out} is, holds or lies in {flag} {used}, which would be replaced or altered; "
            "name a directory beside it"
        )


def identity(tuning: Tuning, sources: Sequence[Any]) -> dict[str, Any]:
    """What a resumed run must share with the first, beside the loop's settings."""
    lora = tuning.network.lora
    adapters = None
    if lora is not None:
        adapters = {**asdict(lora.settings), "targets": sorted(site.name for site in lora.sites)}
    return {
        "base": tuning.base.weights,
        "base_card": tuning.base.id,
        "data": list(sources),
        "method": tuning.method,
        "lora": adapters,
        "frozen": tuning.held,
    }


def card_fields(tuning: Tuning) -> dict[str, Any]:
    """What every fine-tuned checkpoint's card says of its base and its method."""
    network = tuning.network
    learnt = sum(p.numel() for p in tuning.trained.parameters() if p.requires_grad)
    return {
        "base": {"name": tuning.base.path.resolve().name, "sha256": tuning.base.id},
        "text_splits": text_splits(tuning.base.card),
        "method": tuning.method,
        "trained_parameters": learnt,
        "frozen": tuning.held,
        "lora": None if network.lora is None else asdict(network.lora.settings),
    }
