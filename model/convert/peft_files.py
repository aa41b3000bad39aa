"""LoRA adapters as the package `peft` writes them, on an exported base.

Of GPT-2 alone: adapters here have PEFT's layout on the fused `c_attn` already; what is added is its
configuration and its names. A classifier's head and the layer norm that takes its bias
(`model.convert.hf_head`) are stored in full, as `modules_to_save`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Adapter, Base
from model.checkpoint.files import assign, read_json, read_weights, write_json, write_weights
from model.checkpoint.names import current_name
from model.classifier import ClassifierHead
from model.convert.families import HF_GPT2, require_gpt2, their_names
from model.convert.hf_head import fold, labels_of, unfold
from model.convert.hf_read import OWN
from model.errors import CheckpointError, UsageError
from model.lora import LoRA, LoRASettings
from model.tasks import TASKS, TaskName

CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model.transformer."
_SCORE = "base_model.model.score.weight"
_NORM = f"{_PREFIX}ln_f."
_LORA = (".lora_A.weight", ".lora_B.weight")

_PEFT_TARGETS = {
    "qkv": "attn.c_attn",
    "out": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}

_ARITHMETIC: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian"),  # others change the base as well
    "use_dora": (None, False),
    "use_rslora": (None, False),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "lora_bias": (None, False),
    "alora_invocation_tokens": (None,),
}
"""Fields that change what is computed, and the values that are supported; None is absent, too."""


@dataclass(frozen=True)
class PeftAdapter:
    """What a PEFT directory holds, as an adapter of a base here."""

    lora: LoRA
    head: ClassifierHead | None
    task: TaskName | None
    """Which it was exported for, where our own export wrote it."""


def write_peft(
    directory: Path, base: Base, adapter: Adapter, dtype: torch.dtype, base_name: str | None
) -> None:
    """Fill `directory` with the adapter.

    Args:
        base: loaded in fp32 on the CPU, and the adapter with it.
        base_name: where PEFT finds the exported base: a directory or a name on the hub.

    Raises:
        UsageError: its head or its targets have no form there; says why.
    """
    require_gpt2(base.config, "--format peft")
    weights = _peft_weights(adapter.lora)
    settings, head = adapter.lora.settings, adapter.head
    own: dict[str, Any] = {"task": adapter.task, "checkpoint": adapter.id}
    if head is not None:
        weights[_SCORE], weights[f"{_NORM}bias"] = fold(head, base.model.norm.bias)
        weights[f"{_NORM}weight"] = base.model.norm.weight
        own["labels"] = list(head.labels.names)
        own |= {"positive": head.labels.positive, "threshold": head.labels.threshold}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if head is None else "SEQ_CLS",
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "target_modules": [_PEFT_TARGETS[target] for target in settings.targets],
        "fan_in_fan_out": True,  # Conv1D
        "bias": "none",
        "modules_to_save": None if head is None else ["score", "ln_f"],
        "inference_mode": True,
    }
    write_json(directory / CONFIG, config)
    write_json(directory / f"{OWN}.json", own)
    write_weights(directory / _WEIGHTS, weights, dtype, {"format": "pt"})


def is_peft(path: Path) -> bool:
    return (path / CONFIG).is_file()


def read_peft(directory: Path, base: Base) -> PeftAdapter:
    """Read an adapter of `base`, which must be the network that it was trained on.

    Raises:
        CheckpointError: a field or tensor is missing, unknown or of another shape, or changes more
            of the network than an adapter here can; names it.
    """
    source = directory / CONFIG
    require_gpt2(base.config, f"{directory}: a PEFT adapter")
    values = read_json(source)
    for name, allowed in _ARITHMETIC.items():
        if values.get(name) not in allowed:
            raise CheckpointError(
                f"{source}: {name} is {values.get(name)!r}; it must be {allowed[-1]!r}"
            )
    path = directory / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing")
    weights = {
        _own_name(name): tensor
        for name, tensor in read_weights(path, torch.float32, torch.device("cpu")).items()
    }
    lora = _empty_lora(values, weights, base, source)
    own = read_json(directory / f"{OWN}.json") if (directory / f"{OWN}.json").is_file() else {}
    head = None
    if values["task_type"] == "SEQ_CLS":
        head = _head(weights, own, base, path)
    assign([lora], weights, path)
    return PeftAdapter(lora.eval(), head, own["task"] if own.get("task") in TASKS else None)


def _empty_lora(
    values: dict[str, Any], weights: dict[str, Tensor], base: Base, source: Path
) -> LoRA:
    """Without memory yet; its layers are those that have tensors."""
    keys = (name.removeprefix("a.") for name in weights if name.startswith("a."))
    targets = {key.rpartition("/")[2] for key in keys}
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if type(rank) is not int or not isinstance(alpha, int | float) or rank < 1:
        raise CheckpointError(f"{source}: r is {rank!r} and lora_alpha {alpha!r}; not two numbers")
    try:
        settings = LoRASettings(rank, float(alpha), tuple(sorted(targets)))
    except UsageError as error:
        raise CheckpointError(f"{source}: {error}") from error
    with torch.device("meta"):
        return LoRA(base.config, settings)


def _head(
    weights: dict[str, Tensor], own: dict[str, Any], base: Base, source: Path
) -> ClassifierHead:
    """The head, with the change of the last layer norm as its bias; takes both from `weights`."""
    norm = base.model.norm
    score = weights.pop(_SCORE, None)
    if score is None or score.ndim != 2 or score.shape[1] != base.config.n_embd:
        raise CheckpointError(f"{source}: has no tensor {_SCORE} of (labels, {base.config.n_embd})")
    scale = weights.pop(f"{_NORM}weight", norm.weight)
    shift = weights.pop(f"{_NORM}bias", norm.bias)
    if scale.shape != norm.weight.shape or not torch.equal(scale, norm.weight):
        raise CheckpointError(
            f"{source}: {_NORM}weight is not the base's; a head cannot express it"
        )
    names = own.get("labels") or [f"LABEL_{i}" for i in range(len(score))]
    named = {str(i): name for i, name in enumerate(names)}
    labels = labels_of(named, own, source.with_name(f"{OWN}.json"))
    head = ClassifierHead(base.config.n_embd, labels)
    bias = unfold(score, shift, norm.bias)
    assign([head], {"score.weight": score, "score.bias": bias}, source)
    return head.eval()


def _peft_weights(lora: LoRA) -> dict[str, Tensor]:
    """The matrices under the names that PEFT gives them.

    Raises:
        UsageError: a site is a part of what is one layer there.
    """
    weights = {}
    for site in lora.sites:
        if site.channels != slice(None):
            raise UsageError(
                f"--format peft: the adapter changes {site.name} alone, which GPT-2 has within "
                "c_attn; only qkv as a whole can be exported"
            )
        [layer] = their_names(HF_GPT2, f"{site.path}.weight")
        path = _PREFIX + layer.removesuffix(".weight")
        for matrices, end in zip((lora.a, lora.b), _LORA, strict=True):
            weights[path + end] = matrices[site.key]
    return weights


def _own_name(name: str) -> str:
    """Our parameter that PEFT calls `name`; other names stay."""
    for end, matrix in zip(_LORA, "ab", strict=True):
        if name.startswith(_PREFIX) and name.endswith(end):
            path = current_name(name.removeprefix(_PREFIX).removesuffix(end))
            return f"{matrix}.{path.replace('.', '/')}"
    return name
