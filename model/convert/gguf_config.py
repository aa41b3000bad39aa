"""A GGUF file's metadata as one of our architectures, by its `general.architecture`, and the way
back.

What would compute something else than the family's usual network is refused by its name, before
anything is read of the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.architecture import Architecture
from model.convert.families import FAMILIES, in_their_words
from model.convert.gguf_rows import LLAMA
from model.errors import CheckpointError, UsageError
from model.json_files import field, shown
from model.rope import DivisorScaling, LinearScaling, Rope, Scaling, frequencies

DIVISORS = "rope_freqs.weight"
"""The tensor with the divisors of the rotary frequencies."""
_REFUSED = (
    "expert_count",
    "attention.sliding_window",
    "attention.clamp_kqv",
    "attention.scale",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "attention.max_alibi_bias",
)
"""Metadata that change what is computed; 0 asks for nothing."""
_NAMES = {
    "context_length": "context_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_embd": "embedding_length",
    "n_kv_head": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "mlp_width": "feed_forward_length",
    "norm_eps": "attention.layer_norm_rms_epsilon",
}
_GPT2_NAMES = {
    **{ours: _NAMES[ours] for ours in ("context_length", "n_layer", "n_head", "n_embd")},
    "mlp_width": _NAMES["mlp_width"],
    "norm_eps": "attention.layer_norm_epsilon",
}
_ROPE_NAMES = {
    "rope.base": "rope.freq_base",
    "rope.scaling.factor": "rope.scaling.factor",
}
"""Their names, after the family's, of the fields of an `Architecture`."""
_VALUE_WIDTH, _TURNED = "attention.value_length", "rope.dimension_count"


def read_architecture(
    fields: Mapping[str, Any],
    vocab_size: int,
    *,
    tied: bool,
    divisors: tuple[float, ...] | None,
    source: Path,
) -> Architecture:
    """The architecture that a file's `fields` describe.

    Args:
        vocab_size: rows of the embedding.
        tied: whether the head is the embedding.
        divisors: of the rotary frequencies (`rope_freqs`), if the file has some.

    Raises:
        CheckpointError: of another family, or a field is missing, wrongly typed or has a value that
            is not supported; names it.
    """
    family = family_of(fields, source)
    own = {
        name.removeprefix(f"{family}."): value
        for name, value in fields.items()
        if name.startswith(f"{family}.")
    }

    def number(name: str, *default: int) -> int:
        """Above 0, which an `Architecture` takes for an open choice."""
        if default and name not in own:
            return default[0]
        value: int = _field(own, family, name, (int,), source)
        if value < 1:
            raise CheckpointError(
                f"{source}: {family}.{name} is {value}; it must be a whole number of at least 1"
            )
        return value

    for name in _REFUSED:
        if own.get(name):
            raise CheckpointError(
                f"{source}: {family}.{name} is {shown(own[name])}; only 0 is supported"
            )
    if own.get("attention.causal", True) is not True:
        raise CheckpointError(f"{source}: {family}.attention.causal must be true")
    heads, width = number("attention.head_count"), number("embedding_length")
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context_length": number("context_length"),
        "n_layer": number("block_count"),
        "n_head": heads,
        "n_embd": width,
        "mlp_width": number("feed_forward_length", *([4 * width] if family == "gpt2" else [])),
    }
    try:
        if family == "gpt2":
            epsilon = _field(own, family, _GPT2_NAMES["norm_eps"], (float,), source, 1e-5)
            choices = FAMILIES[family].choices
            return Architecture(**shape, tied=tied, norm_eps=_short(epsilon), **choices)
        key = number("attention.key_length", 0)
        values = number(_VALUE_WIDTH, key)
        if values != key:
            raise CheckpointError(
                f"{source}: {family}.attention.value_length is {values} and "
                f"{family}.attention.key_length {key}; they must be equal"
            )
        epsilon = _field(own, family, _NAMES["norm_eps"], (float,), source)
        config = Architecture(
            **shape,
            tied=tied,
            n_kv_head=number("attention.head_count_kv", heads),
            head_dim=key,
            norm_eps=_short(epsilon),
            rope=_rope(own, family, divisors, source),
            **FAMILIES[family].choices,
        )
    except UsageError as error:
        raise CheckpointError(f"{source}: {_in_their_words(str(error), family)}") from error
    turned = number(_TURNED, config.head_dim)
    if turned != config.head_dim:
        raise CheckpointError(
            f"{source}: {family}.rope.dimension_count is {turned}; "
            f"only the whole head, {config.head_dim}, is supported"
        )
    return config


def family_of(fields: Mapping[str, Any], source: Path) -> str:
    """The family by its name there.

    Raises:
        CheckpointError: it is none that is known here.
    """
    family = fields.get("general.architecture")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{source}: general.architecture is {shown(family)}; "
            f"it must be one of {', '.join(FAMILIES)}"
        )
    return family


def _rope(
    own: Mapping[str, Any], family: str, divisors: tuple[float, ...] | None, source: Path
) -> Rope:
    base = _field(own, family, "rope.freq_base", (float,), source, 10_000.0)
    kind = own.get("rope.scaling.type", "linear")  # which is llama.cpp's default
    if kind not in ("none", "linear"):
        raise CheckpointError(
            f"{source}: {family}.rope.scaling.type is {shown(kind)}; it must be none or linear"
        )
    if own.get("rope.scaling.attn_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"{source}: {family}.rope.scaling.attn_factor is "
            f"{shown(own['rope.scaling.attn_factor'])}; only 1 is supported"
        )
    new, old = "rope.scaling.factor", "rope.scale_linear"
    name = old if old in own and new not in own else new
    factor = _field(own, family, name, (float,), source, 0.0)
    scaled = kind == "linear" and factor not in (0.0, 1.0)  # 0 asks for nothing
    if divisors is not None and scaled:
        raise CheckpointError(f"{source}: has both rope_freqs.weight and {family}.{name}")
    scaling: Scaling | None = None
    if divisors is not None:
        scaling = DivisorScaling(divisors)
    elif scaled:
        scaling = LinearScaling(factor)
    return Rope(base, scaling)


def _in_their_words(message: str, family: str) -> str:
    table = _GPT2_NAMES if family == "gpt2" else _NAMES | _ROPE_NAMES
    names = {ours: f"{family}.{theirs}" for ours, theirs in table.items()}
    divisors = dict.fromkeys(("rope.scaling.divisors", "rope.scaling"), DIVISORS)
    return in_their_words(message, names | divisors)


def _field(
    own: Mapping[str, Any],
    family: str,
    name: str,
    kinds: tuple[type, ...],
    source: Path,
    default: Any = ...,
) -> Any:
    if default is ... and name not in own:
        raise CheckpointError(f"{source}: has no {family}.{name}")
    full = f"{family}.{name}"
    return field({full: own.get(name, default)}, full, kinds, source)


def _short(value: float) -> float:
    """A number that was stored in fp32 as it was written: 1e-5, not 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def add_architecture(writer: Any, config: Architecture, family: str) -> None:
    """Give a `gguf.GGUFWriter` the metadata of a network of that family."""
    for ours, theirs in (_GPT2_NAMES if family == "gpt2" else _NAMES).items():
        value = getattr(config, ours)
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{family}.{theirs}", value)
    if config.rope is None:
        return
    writer.add_uint32(f"{family}.{_VALUE_WIDTH}", config.head_dim)
    writer.add_uint32(f"{family}.{_TURNED}", config.head_dim)
    writer.add_float32(f"{family}.{_ROPE_NAMES['rope.base']}", config.rope.base)
    if isinstance(config.rope.scaling, LinearScaling):
        writer.add_string(f"{family}.rope.scaling.type", "linear")
        factor = config.rope.scaling.factor
        writer.add_float32(f"{family}.{_ROPE_NAMES['rope.scaling.factor']}", factor)


def divisors_of(config: Architecture, family: str) -> Tensor | None:
    """What `DIVISORS` holds, (head_dim / 2,) fp32; None where a file needs none.

    Raises:
        UsageError: llama.cpp reads none for this family.
    """
    rope = config.rope
    if rope is None or rope.scaling is None or isinstance(rope.scaling, LinearScaling):
        return None
    if family != LLAMA:
        raise UsageError(
            f"--format gguf: rope.scaling is {rope.scaling.kind}; llama.cpp reads {DIVISORS} for "
            f"{LLAMA} alone, and for {family} only linear scaling"
        )
    pairs = config.head_dim // 2
    return frequencies(Rope(rope.base), pairs) / frequencies(rope, pairs)
