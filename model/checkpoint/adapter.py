"""An adapter of a base: low-rank changes, and a classification head where there is one."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.checkpoint import golden
from model.checkpoint.base import Base, head_from, identities, labels_from
from model.checkpoint.bundled import find_base
from model.checkpoint.files import (
    CARD,
    FORMAT_VERSION,
    PARTS,
    new_checkpoint,
    read_card,
    write_card,
)
from model.checkpoint.names import current_name
from model.checkpoint.settings import read_adapter_settings
from model.classifier import BIAS, ClassifierHead
from model.errors import CheckpointError, UsageError
from model.json_files import read_json, write_json
from model.lora import LoRA, LoRASettings
from model.prompts import Alpaca, Template, from_settings
from model.tasks import TaskName
from model.weight_files import assign, dtype_name, read_weights, sha256, write_weights

_SETTINGS, _WEIGHTS = "adapter.json", "adapter.safetensors"
_OLD_PREFIX = "base_model.model.transformer."
"""Before the names of layers in format 1, as the package `peft` wrote them."""


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter of a base."""

    path: Path
    id: str
    task: TaskName
    lora: LoRA
    head: ClassifierHead | None
    card: dict[str, Any]
    template: Template | None = None
    """How it was trained to read instructions, if it was."""


def is_adapter(path: Path) -> bool:
    """Whether `path` is an adapter rather than a checkpoint with weights of its own."""
    return (path / _SETTINGS).is_file()


def save_adapter(
    out: Path,
    base: Base,
    *,
    task: TaskName,
    lora: LoRA,
    head: ClassifierHead | None,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.bfloat16,
    template: Template | None = None,
    parts: bytes | None = None,
) -> Adapter:
    """Publish an adapter of `base` at `out`, and return it as the written files give it, in fp32.

    `base` must be loaded in fp32 on the CPU: the golden outputs are computed with it.

    Args:
        template: how it was trained to read instructions; by default Alpaca's for `instruct`.
        parts: which rows trained it, for `parts.json`.

    Raises:
        PenwrightError: it cannot be written; what was at `out` before still is.
    """
    template = template or (Alpaca() if task == "instruct" else None)
    weights = dict(head.state_dict()) if head is not None else {}
    for site in lora.sites:
        weights[f"{site.name}.a"], weights[f"{site.name}.b"] = lora.a[site.key], lora.b[site.key]
        if lora.settings.dora:
            weights[f"{site.name}.gain"] = lora.gain[site.key]
    labels = head.labels if head is not None else None
    settings = {
        "format_version": FORMAT_VERSION,
        "task": task,
        "base": {
            "path": os.path.relpath(base.path.resolve(), out.resolve()),
            "sha256": base.weights,
        },
        "dtype": dtype_name(dtype),
        "rank": lora.settings.rank,
        "alpha": lora.settings.alpha,
        "targets": list(lora.settings.targets),
        "template": None if template is None else template.settings(),
        "labels": list(labels.names) if labels else None,
        "positive": labels.positive if labels else None,
        "threshold": labels.threshold if labels else None,
        "temperature": labels.temperature if labels else None,
    }
    if lora.settings.scaling != "rank":  # else as before there was a choice
        settings["scaling"] = lora.settings.scaling
    if lora.settings.dora:
        settings["dora"] = True
    if head is not None and head.pooling != "last":
        settings["pooling"] = head.pooling
    with new_checkpoint(out) as directory:
        write_json(directory / _SETTINGS, settings)
        write_weights(directory / _WEIGHTS, weights, dtype)
        if parts is not None:
            (directory / PARTS).write_bytes(parts)
        saved = _read(directory, base, {})
        outputs = golden.compute(base.model, base.tokenizer, saved.head, saved.lora, task, template)
        write_card(directory, card, outputs)
    return load_adapter(out.resolve(), base)


def load_adapter(path: Path, base: Base) -> Adapter:
    """Load and verify the adapter at `path`, in the dtype and on the device of `base`.

    Raises:
        CheckpointError: a file is missing, altered or of another version, or the adapter was
            trained on another base.
    """
    return _read(path, base, read_card(path, (_SETTINGS, _WEIGHTS)))


def adapter_base_path(path: Path) -> Path:
    """The base that the adapter at `path` names. Where that is gone, or another one has taken its
    place, it is the one of its hash that lies beside the adapter or comes with Penwright, if there
    is such."""
    reference = read_json(path / _SETTINGS).get("base")
    if not isinstance(reference, dict) or not isinstance(reference.get("path"), str):
        raise CheckpointError(f"{path / _SETTINGS}: names no base path")
    named, wanted = (path / str(reference["path"])).resolve(), reference.get("sha256")
    known = identities(named)
    if isinstance(wanted, str) and (known or not named.exists()) and wanted not in known:
        return find_base(wanted, path.resolve().parent) or named
    return named


def _read(path: Path, base: Base, card: dict[str, Any]) -> Adapter:
    source = path / _SETTINGS
    settings = read_adapter_settings(source)
    old = settings["format_version"] == 1
    wanted = settings["base"].get("sha256")
    if wanted != base.weights and not (old and wanted == base.id):
        known = base.id if old else base.weights
        raise CheckpointError(
            f"{source}: was trained on the base {str(wanted)[:12]}…, "
            f"but {base.path} is {known[:12]}…"
        )
    try:
        shape = LoRASettings(
            settings["rank"],
            settings["alpha"],
            tuple(settings["targets"]),
            scaling=settings["scaling"],
            dora=settings["dora"],
        )
        with torch.device("meta"):
            lora = LoRA(base.config, shape)
    except (UsageError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    labels, head = None, None
    if settings["labels"] is not None:
        fields = {k: settings[k] for k in ("positive", "threshold", "temperature")}
        labels = labels_from({"names": settings["labels"], **fields}, source)
    template = None
    if settings["template"] is not None:
        template = from_settings(settings["template"], source)
        template.check(base.tokenizer, source)
        if template == base.template:  # which may have a process that renders by it
            template = base.template
    weights = {
        _parameter(name, old=old): tensor
        for name, tensor in read_weights(
            path / _WEIGHTS, base.model.dtype, base.model.device
        ).items()
    }
    if labels is not None:
        with torch.device("meta"):
            head = head_from(base.config, labels, settings["pooling"], source, BIAS in weights)
    modules: list[nn.Module] = [lora] if head is None else [lora, head]
    assign(modules, weights, path / _WEIGHTS)
    return Adapter(
        path=path,
        id=sha256(path / CARD) if card else "",
        task=settings["task"],
        lora=lora.eval(),
        head=head.eval() if head is not None else None,
        card=card,
        template=template,
    )


def _parameter(name: str, *, old: bool) -> str:
    """The parameter of `LoRA` that a file calls `name`; names of other modules stay."""
    ends = (".lora_A.weight", ".lora_B.weight", ".gain") if old else (".a", ".b", ".gain")
    for end, matrix in zip(ends, ("a", "b", "gain"), strict=True):
        if name.endswith(end):
            path = name.removesuffix(end)
            if old:
                path = current_name(path.removeprefix(_OLD_PREFIX))
            return f"{matrix}.{path.replace('.', '/')}"
    return name
