"""LoRA adapters that the package `peft` wrote, for a base here.

PEFT has a rank and an alpha for each layer, an adapter here one of each: smaller pairs are filled
up with zeros, and what alpha / rank differs by is multiplied into B. A block that has no pair gets
one of zeros. What the adapter computes is the same.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Base
from model.classifier import ClassifierHead, has_bias
from model.convert.families import family_of
from model.convert.hf_head import labels_of, new_head, unfold
from model.convert.hf_read import OWN
from model.convert.peft_modules import (
    CONFIG,
    MAGNITUDE,
    NORM,
    PREFIX,
    SCORE,
    WEIGHTS,
    A,
    B,
    Module,
    modules_of,
)
from model.errors import CheckpointError
from model.json_files import field, read_json, shown
from model.lora import TARGETS, LoRA, LoRASettings, Site, scaled_by
from model.prompts import Template, from_settings
from model.tasks import TASKS, TaskName
from model.weight_files import assign, read_weights

_ARITHMETIC: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", "SEQ_CLS"),
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian"),  # others change the base as well
    "use_dora": (None, False, True),
    "use_rslora": (None, False, True),
    "lora_bias": (None, False),
    "alora_invocation_tokens": (None,),
}
"""Fields that change what is computed, and the values that are supported; None is absent, too."""
_KEY = re.compile(r"\^?(?:[\w.]|\\.|\.\*){1,200}\$?")
"""A key of a pattern: an expression, but none that takes long to match."""


@dataclass(frozen=True)
class PeftAdapter:
    """What a PEFT directory holds, as an adapter of a base here."""

    lora: LoRA
    head: ClassifierHead | None
    task: TaskName | None
    """Which it was exported for, where our own export wrote it."""
    template: Template | None
    """How it was trained to read conversations."""


@dataclass(frozen=True)
class _Pair:
    """The change of one of their layers."""

    a: Tensor
    """(rank, in)"""
    b: Tensor
    """(out, rank)"""
    scale: float
    """alpha / rank, or its root."""
    magnitude: Tensor | None = None
    """(out,), of a weight-decomposed adapter."""


def is_peft(path: Path) -> bool:
    return (path / CONFIG).is_file()


def read_peft(directory: Path, base: Base) -> PeftAdapter:
    """Read an adapter of `base`, which must be the network that it was trained on.

    Raises:
        CheckpointError: a field or tensor is missing, unknown or of another shape, or changes more
            of the network than an adapter here can; names it.
        UsageError: no family has the base's choices.
    """
    source = directory / CONFIG
    family = family_of(base.config, f"{directory}: a PEFT adapter")
    values = read_json(source)
    for name, allowed in _ARITHMETIC.items():
        if values.get(name) not in allowed:
            raise CheckpointError(
                f"{source}: {name} is {values.get(name)!r}; it must be {allowed[-1]!r}"
            )
    path = directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing")
    weights = read_weights(path, torch.float32, torch.device("cpu"))
    notes = directory / f"{OWN}.json"
    own = read_json(notes) if notes.is_file() else {}
    head = None
    if values["task_type"] == "SEQ_CLS":
        head = _head(weights, own, base, path)
    lora = _lora(values, weights, base, modules_of(base.model, family), directory)
    task = own["task"] if own.get("task") in TASKS else None
    return PeftAdapter(lora.eval(), head, task, _template(own, notes, base, head))


def _template(
    own: dict[str, Any], notes: Path, base: Base, head: ClassifierHead | None
) -> Template | None:
    """By our own notes, if they have one; else, an adapter of a network that reads conversations
    was trained to read them so."""
    if "template" not in own:
        return base.template if head is None else None
    if own["template"] is None:
        return None
    template = from_settings(own["template"], notes)
    template.check(base.tokenizer, notes)
    return template


def _lora(
    values: dict[str, Any],
    weights: dict[str, Tensor],
    base: Base,
    modules: list[Module],
    directory: Path,
) -> LoRA:
    """The adapter that `weights` hold; takes all of them."""
    source = directory / CONFIG
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float) or rank < 1:
        raise CheckpointError(f"{source}: r is {rank!r} and lora_alpha {alpha!r}; not two numbers")
    assert isinstance(alpha, int | float)
    pairs = _pairs(values, weights, modules, rank, alpha, directory)
    largest = max(len(pair.a) for pair in pairs.values())
    scaling = _scaling(values)
    scale = alpha / scaled_by(rank, scaling) or 1.0  # by 0 nothing could be divided
    settings = LoRASettings(
        largest,
        float(alpha) if alpha and largest == rank else scale * scaled_by(largest, scaling),
        _targets(modules, pairs),
        scaling=scaling,
        dora=bool(values.get("use_dora")),
    )
    with torch.device("meta"):
        lora = LoRA(base.config, settings)
    matrices = {}
    for site in lora.sites:
        a, b = _of_site(site, modules, pairs, largest, scale)
        matrices[f"a.{site.key}"], matrices[f"b.{site.key}"] = a, b
        if settings.dora:
            matrices[f"gain.{site.key}"] = torch.zeros(site.out_features)
    assign([lora], matrices, directory / WEIGHTS)
    if settings.dora:
        _set_gains(lora, base, modules, pairs)
    return lora


@torch.no_grad()
def _set_gains(lora: LoRA, base: Base, modules: list[Module], pairs: dict[str, _Pair]) -> None:
    """By the magnitudes; what has no pair keeps a gain of zero."""
    projections = dict(base.model.projections())
    for module in modules:
        pair = pairs.get(module.name)
        if pair is None or pair.magnitude is None:
            continue
        norms = lora.norms(projections[module.path])[module.start : module.stop]
        for site in lora.sites_of(module.path):
            start, stop, _ = site.channels.indices(site.width)
            if start <= module.start < stop:
                own = slice(module.start - start, module.stop - start)
                lora.gain[site.key][own] = pair.magnitude / norms - 1


def _scaling(values: dict[str, Any]) -> str:
    return "sqrt-rank" if values.get("use_rslora") else "rank"


def _pairs(
    values: dict[str, Any],
    weights: dict[str, Tensor],
    modules: list[Module],
    rank: int,
    alpha: float,
    directory: Path,
) -> dict[str, _Pair]:
    """The pairs by the names of their layers; takes all of `weights`.

    Args:
        rank, alpha: of layers that no pattern names.
    """
    source = directory / CONFIG
    ranks = _pattern(values, "rank_pattern", int, source)
    alphas = _pattern(values, "alpha_pattern", float, source)
    pairs: dict[str, _Pair] = {}
    for module in modules:
        r, of = _matching(ranks, module.name, rank), _matching(alphas, module.name, alpha)
        a = weights.pop(f"{PREFIX}{module.name}{A}", None)
        b = weights.pop(f"{PREFIX}{module.name}{B}", None)
        if a is not None or b is not None:
            width = module.stop - module.start
            a = _checked(a, f"{PREFIX}{module.name}{A}", (r, module.in_features), directory)
            b = _checked(b, f"{PREFIX}{module.name}{B}", (width, r), directory)
            magnitude = None
            if values.get("use_dora"):
                name = f"{PREFIX}{module.name}{MAGNITUDE}"
                magnitude = _checked(weights.pop(name, None), name, (width,), directory)
            pairs[module.name] = _Pair(a, b, of / scaled_by(r, _scaling(values)), magnitude)
    if weights or not pairs:
        said = (
            f"unknown tensors: {', '.join(sorted(weights)[:5])}" if weights else "no LoRA tensors"
        )
        raise CheckpointError(f"{directory / WEIGHTS}: has {said}")
    return pairs


def _pattern(
    values: dict[str, Any], name: str, kind: type[int] | type[float], source: Path
) -> list[tuple[re.Pattern[str], float]]:
    """The expressions of a pattern, each with its number, in the order in which PEFT tries them."""
    found = []
    pattern = field(values, name, (dict, type(None)), source, None) or {}
    for key in pattern:
        value: float = field(pattern, key, kind, f"{source}: {name}")
        if value < (1 if kind is int else 0):
            raise CheckpointError(f"{source}: {name} has {shown(value)} for {shown(key)}")
        if not _KEY.fullmatch(key) or key.count("*") > 3:
            raise CheckpointError(
                f"{source}: {name} has the key {shown(key)}; only names of layers are supported, "
                "also with dots and up to three .* within"
            )
        found.append((re.compile(rf"(.*\.)?({key})$"), value))
    return found


def _matching(pattern: list[tuple[re.Pattern[str], float]], name: str, default: float) -> Any:
    """The number for a layer."""
    return next((value for key, value in pattern if key.match(name)), default)


def _checked(tensor: Tensor | None, name: str, shape: tuple[int, ...], directory: Path) -> Tensor:
    if tensor is None:
        raise CheckpointError(f"{directory / WEIGHTS}: has no tensor {name}")
    if tensor.shape != shape:
        raise CheckpointError(
            f"{directory / WEIGHTS}: {name} has the shape {tuple(tensor.shape)} in place of "
            f"{shape}, which {CONFIG} and the base ask for"
        )
    return tensor


def _targets(modules: list[Module], pairs: dict[str, _Pair]) -> tuple[str, ...]:
    """What of each block is changed, in the order of `TARGETS`; `qkv` where the three share A."""
    found = {module.target for module in modules if module.name in pairs}
    if {"q", "k", "v"} <= found and _share(modules, pairs):
        found = found - {"q", "k", "v"} | {"qkv"}
    return tuple(target for target in TARGETS if target in found)


def _share(modules: list[Module], pairs: dict[str, _Pair]) -> bool:
    """Whether in each block that has a pair for them q, k and v have the same A."""
    of_block: dict[str, list[_Pair | None]] = {}
    for module in modules:
        if module.target in ("q", "k", "v"):
            of_block.setdefault(module.path, []).append(pairs.get(module.name))
    for found in of_block.values():
        there = [pair for pair in found if pair is not None]
        if there and (
            len(there) < len(found) or any(not torch.equal(p.a, there[0].a) for p in there)
        ):
            return False
    return True


def _of_site(
    site: Site, modules: list[Module], pairs: dict[str, _Pair], rank: int, scale: float
) -> tuple[Tensor, Tensor]:
    """A site's A (rank, in) and B (out, rank): those of its layers, or zeros."""
    start, stop, _ = site.channels.indices(site.width)
    a, b = torch.zeros(rank, site.in_features), torch.zeros(site.out_features, rank)
    for module in modules:
        pair = pairs.get(module.name)
        if module.path == site.path and start <= module.start < stop and pair is not None:
            own = slice(0, len(pair.a))
            a[own] = pair.a
            factor = 1.0 if pair.scale == scale else pair.scale / scale
            b[module.start - start : module.stop - start, own] = pair.b * factor
    return a, b


def _head(
    weights: dict[str, Tensor], own: dict[str, Any], base: Base, source: Path
) -> ClassifierHead:
    """The head, with the change of a last layer norm as its bias; takes both from `weights`."""
    score = weights.pop(SCORE, None)
    if score is None or score.ndim != 2 or score.shape[1] != base.config.n_embd:
        raise CheckpointError(f"{source}: has no tensor {SCORE} of (labels, {base.config.n_embd})")
    bias = torch.zeros(len(score))
    if has_bias(base.config):
        norm = base.model.norm
        scale = weights.pop(f"{NORM}weight", norm.weight)
        shift = weights.pop(f"{NORM}bias", norm.bias)
        if scale.shape != norm.weight.shape or not torch.equal(scale, norm.weight):
            raise CheckpointError(
                f"{source}: {NORM}weight is not the base's; a head cannot express it"
            )
        bias = unfold(score, shift, norm.bias)
    names = own.get("labels") or [f"LABEL_{i}" for i in range(len(score))]
    named = {str(i): name for i, name in enumerate(names)}
    labels = labels_of(named, own, source.with_name(f"{OWN}.json"))
    return new_head(labels, base.config, score, bias, source)
