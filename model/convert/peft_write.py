"""LoRA adapters as the package `peft` reads them, on an exported base.

One of our sites can be several of their layers, which then share its A (`qkv` where a family has
three projections). One of their layers can have several of our sites, whose pairs become one of a
larger rank, block by block; patterns of rank and alpha keep the scale as it was. A classifier's
head, and with GPT-2's choices the layer norm that takes its bias (`model.convert.hf_head`), are
stored in full, as `modules_to_save`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Adapter, Base
from model.convert.families import family_of
from model.convert.hf_head import calibrated_weight, check_head, fold
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
from model.json_files import write_json
from model.lora import LoRA, Site, scaled_by
from model.weight_files import write_weights


def write_peft(
    directory: Path, base: Base, adapter: Adapter, dtype: torch.dtype, base_name: str | None
) -> None:
    """Fill `directory` with the adapter.

    Args:
        base: loaded in fp32 on the CPU, and the adapter with it.
        base_name: where PEFT finds the exported base: a directory or a name on the hub.

    Raises:
        UsageError: no family has the base's choices, or its head has no form there; says why.
    """
    family = family_of(base.config, "--format peft")
    head = adapter.head
    if head is not None:
        check_head(head, family, "--format peft")
    modules = modules_of(base.model, family)
    weights = _peft_weights(adapter.lora, modules)
    if adapter.lora.settings.dora:
        weights |= _magnitudes(adapter.lora, modules, base)
    own: dict[str, Any] = {"task": adapter.task, "checkpoint": adapter.id}
    own["template"] = None if adapter.template is None else adapter.template.settings()
    if head is not None:
        if head.biased:
            weights[SCORE], weights[f"{NORM}bias"] = fold(head, base.model.norm.bias)
            weights[f"{NORM}weight"] = base.model.norm.weight
        else:
            weights[SCORE] = calibrated_weight(head)
        own["labels"] = list(head.labels.names)
        own |= {"positive": head.labels.positive, "threshold": head.labels.threshold}
    config = _config(adapter, family, modules, base_name)
    write_json(directory / CONFIG, config)
    write_json(directory / f"{OWN}.json", own)
    write_weights(directory / WEIGHTS, weights, dtype, {"format": "pt"})


def _config(
    adapter: Adapter, family: str, modules: list[Module], base_name: str | None
) -> dict[str, Any]:
    """What PEFT has to know to read the matrices."""
    settings, head = adapter.lora.settings, adapter.head
    counts = {module.short: len(_sites(adapter.lora, module)) for module in modules}
    several = {short: count for short, count in counts.items() if count > 1}
    saved = None if head is None else ["score", "ln_f"] if head.biased else ["score"]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if head is None else "SEQ_CLS",
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "rank_pattern": {short: count * settings.rank for short, count in several.items()},
        "alpha_pattern": {
            short: scaled_by(count, settings.scaling) * settings.alpha
            for short, count in several.items()
        },
        "use_rslora": settings.scaling == "sqrt-rank",
        "use_dora": settings.dora,
        "lora_dropout": 0.0,
        "target_modules": [short for short, count in counts.items() if count],
        "fan_in_fan_out": family == "gpt2",  # Conv1D
        "bias": "none",
        "modules_to_save": saved,
        "inference_mode": True,
    }


def _peft_weights(lora: LoRA, modules: list[Module]) -> dict[str, Tensor]:
    """The matrices under the names that PEFT gives them."""
    weights = {}
    for module in modules:
        sites = _sites(lora, module)
        if sites:
            weights[f"{PREFIX}{module.name}{A}"] = torch.cat([lora.a[s.key] for s in sites])
            weights[f"{PREFIX}{module.name}{B}"] = _b_of(lora, sites, module)
    return weights


def _magnitudes(lora: LoRA, modules: list[Module], base: Base) -> dict[str, Tensor]:
    """Of all channels of a layer, those without a site among them."""
    projections = dict(base.model.projections())
    found = {}
    for module in modules:
        if _sites(lora, module):
            projection = projections[module.path]
            gain = lora.gain_of(projection)
            assert gain is not None
            whole = lora.norms(projection) * (1 + gain)
            found[f"{PREFIX}{module.name}{MAGNITUDE}"] = whole[module.start : module.stop]
    return found


def _b_of(lora: LoRA, sites: list[Site], module: Module) -> Tensor:
    """The sites' B beside each other, each in its own rows: (out_features, sites × rank)."""
    rank = lora.settings.rank
    b = torch.zeros(module.stop - module.start, len(sites) * rank)
    for number, site in enumerate(sites):
        start, stop = _channels(site)
        rows = slice(max(start, module.start), min(stop, module.stop))
        own = lora.b[site.key][rows.start - start : rows.stop - start]
        columns = slice(number * rank, (number + 1) * rank)
        b[rows.start - module.start : rows.stop - module.start, columns] = own
    return b


def _sites(lora: LoRA, module: Module) -> list[Site]:
    """Those that change the module's channels."""

    def overlaps(site: Site) -> bool:
        start, stop = _channels(site)
        return start < module.stop and module.start < stop

    return [site for site in lora.sites_of(module.path) if overlaps(site)]


def _channels(site: Site) -> tuple[int, int]:
    start, stop, _ = site.channels.indices(site.width)
    return start, stop
