"""The linear layers that PEFT's adapters name, and where they are here.

PEFT changes one of their layers by one pair of matrices. A projection here can be several of those
layers beside each other (Llama's q_proj, k_proj and v_proj), and one of those layers can have
several of our adapters' sites within it (q, k and v of GPT-2's c_attn).
"""

from dataclasses import dataclass

from model.convert.families import FAMILIES, HF_PREFIX, Table, their_names
from model.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the names of all tensors."""
A, B = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE = ".lora_magnitude_vector"
"""Of a weight-decomposed adapter, (out,)."""
SCORE = f"{PREFIX}score.weight"
NORM = f"{PREFIX}{HF_PREFIX}ln_f."
"""A head, and the last layer norm with it, of GPT-2 alone."""


@dataclass(frozen=True)
class Module:
    """One of their linear layers."""

    name: str
    """Such as `model.layers.0.self_attn.q_proj`."""
    short: str
    """What it is called in every block: `q_proj`, or more where that is ambiguous."""
    path: str
    """Of our projection that it is a part of, or all."""
    start: int
    """Of its output channels among those of the projection."""
    stop: int
    target: str
    """What our adapters call these channels."""
    in_features: int


def modules_of(model: Transformer, family: str) -> list[Module]:
    """All of them, block by block."""
    table = FAMILIES[family].hugging_face
    prefix = HF_PREFIX if family == "gpt2" else ""
    shorts = _short_names(table)
    found = []
    for path, projection in model.projections():
        theirs = [name.removesuffix(".weight") for name in their_names(table, f"{path}.weight")]
        parts = projection.parts
        if len(theirs) < len(parts):
            parts = {path.rpartition(".")[2]: projection.out_features}
        start = 0
        for name, (target, width) in zip(theirs, parts.items(), strict=True):
            short = next(short for short in shorts if name.endswith(f".{short}"))
            stop = start + width
            size = projection.in_features
            found.append(Module(prefix + name, short, path, start, stop, target, size))
            start = stop
    return found


def _short_names(table: Table) -> list[str]:
    """What each layer of a block is called by PEFT: the last part of its name, if no other layer's
    ends so, or all that comes after the block's number."""
    layers = [theirs for names in table.values() for theirs in names if "{}." in theirs]
    lasts = [theirs.rpartition(".")[2] for theirs in layers]
    return [
        last if lasts.count(last) == 1 else theirs.partition("{}.")[2]
        for theirs, last in zip(layers, lasts, strict=True)
    ]
