"""The checkpoint directory: what training publishes and the service loads.

    base/      config.json  model.safetensors  tokenizer.tiktoken  card.json
    adapter/   adapter.json  adapter.safetensors  card.json

`card.json` holds the SHA-256 of every other file, and its own hash is the checkpoint's id. Loading
checks all of them: an altered file is refused by its name. There is no pickle, and nothing is
downloaded. Publishing replaces the directory whole (`model.atomic`).

A directory of the first kind may also hold a classification head (`score.*`): that is a fully
fine-tuned classifier.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from model import golden, prompts
from model.atomic import new_directory
from model.checkpoint_files import (
    CARD,
    FORMAT_VERSION,
    assign,
    check_target,
    dtype_name,
    read_card,
    read_json,
    read_versioned,
    read_weights,
    sha256,
    write_card,
    write_json,
    write_weights,
)
from model.classifier import ClassifierHead, Labels
from model.config import GPTConfig
from model.errors import CheckpointError, UsageError
from model.gpt import GPT
from model.lora import LoRA, LoRASettings, name_of_peft
from model.tokenizer import Tokenizer

TaskName = Literal["generate", "classify", "instruct"]
TASKS: tuple[TaskName, ...] = ("generate", "classify", "instruct")

_CONFIG, _ADAPTER = "config.json", "adapter.json"
_MODEL, _TOKENIZER, _ADAPTER_WEIGHTS = (
    "model.safetensors",
    "tokenizer.tiktoken",
    "adapter.safetensors",
)
_NOTHING = type(None)
_CONFIG_FIELDS: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "architecture": (dict,),
    "dtype": (str,),
    "tokenizer": (dict,),
    "template": (dict,),
    "stop_tokens": (list,),
    "classifier": (dict, _NOTHING),
}
_ADAPTER_FIELDS: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "base": (dict,),
    "dtype": (str,),
    "rank": (int,),
    "alpha": (int, float),
    "targets": (list,),
    "template": (dict,),
    "labels": (list, _NOTHING),
    "positive": (str, _NOTHING),
    "threshold": (int, float, _NOTHING),
    "temperature": (int, float, _NOTHING),
}


@dataclass(frozen=True)
class Base:
    """A loaded network with its tokenizer, in evaluation mode."""

    path: Path
    id: str
    """SHA-256 of its card."""
    task: TaskName
    config: GPTConfig
    model: GPT
    tokenizer: Tokenizer
    stop_tokens: tuple[int, ...]
    head: ClassifierHead | None
    card: dict[str, Any]


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter of a base."""

    path: Path
    id: str
    task: TaskName
    lora: LoRA
    head: ClassifierHead | None
    card: dict[str, Any]


def is_adapter(path: Path) -> bool:
    """Whether `path` is an adapter rather than a checkpoint with weights of its own."""
    return (path / _ADAPTER).is_file()


def save_base(
    out: Path,
    model: GPT,
    tokenizer: Tokenizer,
    *,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.bfloat16,
    head: ClassifierHead | None = None,
    task: TaskName = "generate",
) -> Base:
    """Publish a network at `out`, and return it as the written files give it, in fp32.

    Args:
        dtype: of the stored weights; they are rounded to it.
        card: what is known of the checkpoint; hashes and golden outputs are added.

    Raises:
        PenwrightError: it cannot be written; what was at `out` before still is.
    """
    weights = dict(model.state_dict())
    if head is not None:
        weights.update(head.state_dict())
    config = {
        "format_version": FORMAT_VERSION,
        "task": task,
        "architecture": model.config.to_dict(),
        "dtype": dtype_name(dtype),
        "tokenizer": tokenizer.settings(),
        "template": {"name": prompts.TEMPLATE, "version": prompts.TEMPLATE_VERSION},
        "stop_tokens": [tokenizer.end_token],
        "classifier": None if head is None else asdict(head.labels),
    }
    check_target(out)
    with new_directory(out.resolve()) as directory:
        write_json(directory / _CONFIG, config)
        (directory / _TOKENIZER).write_bytes(tokenizer.file_content())
        write_weights(directory / _MODEL, weights, dtype)
        saved = _read_base(directory, {}, torch.float32, torch.device("cpu"))
        outputs = golden.compute(saved.model, saved.tokenizer, saved.head, None, task)
        write_card(directory, card, outputs)
    return load_base(out)


def load_base(
    path: Path, *, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> Base:
    """Load and verify the checkpoint at `path`.

    Args:
        dtype: in which the weights are held, whatever they were stored in; None is as stored.

    Raises:
        CheckpointError: a file is missing, altered, of another version or shape; names it.
    """
    card = read_card(path, (_CONFIG, _MODEL, _TOKENIZER))
    return _read_base(path, card, dtype, torch.device(device))


def save_adapter(
    out: Path,
    base: Base,
    *,
    task: TaskName,
    lora: LoRA,
    head: ClassifierHead | None,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.bfloat16,
) -> Adapter:
    """Publish an adapter of `base` at `out`, and return it as the written files give it, in fp32.

    `base` must be loaded in fp32 on the CPU: the golden outputs are computed with it.

    Raises:
        PenwrightError: it cannot be written; what was at `out` before still is.
    """
    weights = dict(head.state_dict()) if head is not None else {}
    weights |= lora.peft_weights()
    labels = head.labels if head is not None else None
    settings = {
        "format_version": FORMAT_VERSION,
        "task": task,
        "base": {
            "path": os.path.relpath(base.path.resolve(), out.resolve()),
            "sha256": base.id,
        },
        "dtype": dtype_name(dtype),
        "rank": lora.settings.rank,
        "alpha": lora.settings.alpha,
        "targets": list(lora.settings.targets),
        "template": {"name": prompts.TEMPLATE, "version": prompts.TEMPLATE_VERSION},
        "labels": list(labels.names) if labels else None,
        "positive": labels.positive if labels else None,
        "threshold": labels.threshold if labels else None,
        "temperature": labels.temperature if labels else None,
    }
    check_target(out)
    with new_directory(out.resolve()) as directory:
        write_json(directory / _ADAPTER, settings)
        write_weights(directory / _ADAPTER_WEIGHTS, weights, dtype)
        saved = _read_adapter(directory, base, {})
        outputs = golden.compute(base.model, base.tokenizer, saved.head, saved.lora, task)
        write_card(directory, card, outputs)
    return load_adapter(out, base)


def load_adapter(path: Path, base: Base) -> Adapter:
    """Load and verify the adapter at `path`, in the dtype and on the device of `base`.

    Raises:
        CheckpointError: a file is missing, altered or of another version, or the adapter was
            trained on another base.
    """
    return _read_adapter(path, base, read_card(path, (_ADAPTER, _ADAPTER_WEIGHTS)))


def adapter_base_path(path: Path) -> Path:
    """The directory of the base that the adapter at `path` names."""
    reference = read_json(path / _ADAPTER).get("base")
    if not isinstance(reference, dict) or not isinstance(reference.get("path"), str):
        raise CheckpointError(f"{path / _ADAPTER}: names no base path")
    return (path / str(reference["path"])).resolve()


def _read_base(
    path: Path, card: dict[str, Any], dtype: torch.dtype | None, device: torch.device
) -> Base:
    source = path / _CONFIG
    config = _read_settings(source, _CONFIG_FIELDS)
    architecture = GPTConfig.from_dict(config["architecture"], str(source))
    tokenizer = Tokenizer.from_file(path / _TOKENIZER, config["tokenizer"])
    if tokenizer.vocab_size > architecture.vocab_size:
        raise CheckpointError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the network only {architecture.vocab_size}"
        )
    stop_tokens = tuple(config["stop_tokens"])
    if not all(isinstance(t, int) and 0 <= t < architecture.vocab_size for t in stop_tokens):
        raise CheckpointError(f"{source}: stop_tokens {list(stop_tokens)} are not all token ids")
    with torch.device("meta"):
        model = GPT(architecture)
        head = None
        if config["classifier"] is not None:
            labels = _labels(config["classifier"], source)
            head = ClassifierHead(architecture.n_embd, labels)
    modules: list[nn.Module] = [model] if head is None else [model, head]
    assign(modules, read_weights(path / _MODEL, dtype, device), path / _MODEL)
    return Base(
        path=path,
        id=sha256(path / CARD) if card else "",
        task=config["task"],
        config=architecture,
        model=model.eval(),
        tokenizer=tokenizer,
        stop_tokens=stop_tokens,
        head=head.eval() if head is not None else None,
        card=card,
    )


def _read_adapter(path: Path, base: Base, card: dict[str, Any]) -> Adapter:
    source = path / _ADAPTER
    settings = _read_settings(source, _ADAPTER_FIELDS)
    wanted = settings["base"].get("sha256")
    if wanted != base.id:
        raise CheckpointError(
            f"{source}: was trained on the base {str(wanted)[:12]}…, "
            f"but {base.path} is {base.id[:12]}…"
        )
    try:
        shape = LoRASettings(settings["rank"], settings["alpha"], tuple(settings["targets"]))
    except (UsageError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    dtype, device = base.model.dtype, base.model.device
    with torch.device("meta"):
        lora = LoRA(base.config, shape)
        head = None
        if settings["labels"] is not None:
            fields = {k: settings[k] for k in ("positive", "threshold", "temperature")}
            head = ClassifierHead(
                base.config.n_embd, _labels({"names": settings["labels"], **fields}, source)
            )
    weights = {
        name_of_peft(name): tensor
        for name, tensor in read_weights(path / _ADAPTER_WEIGHTS, dtype, device).items()
    }
    modules: list[nn.Module] = [lora] if head is None else [lora, head]
    assign(modules, weights, path / _ADAPTER_WEIGHTS)
    return Adapter(
        path=path,
        id=sha256(path / CARD) if card else "",
        task=settings["task"],
        lora=lora.eval(),
        head=head.eval() if head is not None else None,
        card=card,
    )


def _labels(values: Mapping[str, Any], source: Path) -> Labels:
    try:
        return Labels(**{**values, "names": tuple(values["names"])})
    except (UsageError, TypeError, KeyError) as error:
        raise CheckpointError(f"{source}: {error}") from error


def _read_settings(path: Path, fields: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    values = read_versioned(path, fields)
    if values["task"] not in TASKS:
        raise CheckpointError(f"{path}: task {values['task']!r} is none of {', '.join(TASKS)}")
    template = {"name": prompts.TEMPLATE, "version": prompts.TEMPLATE_VERSION}
    if values["template"] != template:
        raise CheckpointError(f"{path}: template {values['template']} is not {template}")
    return values
