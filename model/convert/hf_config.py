"""Hugging Face's `config.json` as one of our architectures, by its `model_type`.

What would compute something else than the family's usual network is refused by its name, before
anything is read of the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.architecture import Architecture
from model.convert.families import HUGGING_FACE, in_their_words
from model.errors import CheckpointError, UsageError
from model.json_files import field, shown
from model.rope import LinearScaling, Llama3Scaling, Rope, Scaling

_ARITHMETIC: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new",),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "partial_rotary_factor": (1.0, None),
        "pretraining_tp": (1, None),
    },
    "qwen2": {
        "hidden_act": ("silu",),
        "use_sliding_window": (False, None),
        "use_mrope": (False, None),
        "partial_rotary_factor": (1.0, None),
    },
    "qwen3": {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "use_sliding_window": (False, None),
        "partial_rotary_factor": (1.0, None),
    },
}
"""Fields that change what is computed, and the values that are supported, the family's own first;
a field that is absent has that one."""
_TIED = {"gpt2": True, "llama": False, "qwen2": False, "qwen3": False}
"""Whether the head is tied where `tie_word_embeddings` is absent."""
_GPT2_NAMES = {
    "context_length": "n_positions",
    "mlp_width": "n_inner",
    "norm_eps": "layer_norm_epsilon",
}
_NAMES = {
    "context_length": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_kv_head": "num_key_value_heads",
    "mlp_width": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "rope.base": "rope_theta",
    "rope.scaling.factor": "factor",
    "rope.scaling.low_freq_factor": "low_freq_factor",
    "rope.scaling.original_context": "original_max_position_embeddings",
}
"""Their names of the fields of an `Architecture`, where they are others."""


def read_architecture(values: Mapping[str, Any], source: Path) -> Architecture:
    """The architecture that `values`, the content of `source`, describe.

    Raises:
        CheckpointError: of another family, or a field is missing, wrongly typed or has a value that
            is not supported; names it.
    """
    family = values.get("model_type")
    if not isinstance(family, str) or family not in HUGGING_FACE:
        raise CheckpointError(
            f"{source}: model_type is {shown(family)}; it must be one of {', '.join(HUGGING_FACE)}"
        )
    for name, allowed in _ARITHMETIC[family].items():
        value = values.get(name, allowed[0])
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise CheckpointError(
                f"{source}: {name} is {shown(value)}; only {allowed[0]!r} is supported"
            )
    if values.get("quantization_config") is not None:
        raise CheckpointError(
            f"{source}: has a quantization_config; weights must be stored as numbers "
            "(GGUF files may be quantized)"
        )
    kinds = values.get("layer_types")
    if kinds is not None and (
        not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    ):
        raise CheckpointError(
            f"{source}: layer_types is {shown(kinds)}; only 'full_attention' is supported"
        )
    try:
        return _gpt2(values, source) if family == "gpt2" else _modern(family, values, source)
    except UsageError as error:
        names = _GPT2_NAMES if family == "gpt2" else _NAMES
        raise CheckpointError(f"{source}: {in_their_words(str(error), names)}") from error


def _gpt2(values: Mapping[str, Any], source: Path) -> Architecture:
    width = _count(values, "n_embd", source)
    return Architecture(
        _count(values, "vocab_size", source),
        _count(values, "n_positions", source),
        _count(values, "n_layer", source),
        _count(values, "n_head", source),
        width,
        mlp_width=_count(values, "n_inner", source, 4 * width),
        norm_eps=field(values, "layer_norm_epsilon", float, source, 1e-5),
    )


def _modern(family: str, values: Mapping[str, Any], source: Path) -> Architecture:
    heads = _count(values, "num_attention_heads", source)
    # The default of other families than Llama is that of one size.
    kv_heads = (heads,) if family == "llama" else ()
    return Architecture(
        _count(values, "vocab_size", source),
        _count(values, "max_position_embeddings", source),
        _count(values, "num_hidden_layers", source),
        heads,
        _count(values, "hidden_size", source),
        n_kv_head=_count(values, "num_key_value_heads", source, *kv_heads),
        head_dim=_count(values, "head_dim", source, 128 if family == "qwen3" else 0),
        mlp_width=_count(values, "intermediate_size", source),
        norm="rms",
        norm_eps=field(values, "rms_norm_eps", float, source, 1e-6),
        mlp="swiglu",
        bias="qkv" if family == "qwen2" else "none",
        qk_norm=family == "qwen3",
        rope=_rope(values, source),
    )


def _count(values: Mapping[str, Any], name: str, source: Path, *default: int) -> int:
    """A whole number above 0, which is what an `Architecture` takes for an open choice; null stands
    for the default, if there is one."""
    if default and values.get(name) is None:
        return default[0]
    value = field(values, name, int, source)
    if value < 1:
        raise CheckpointError(
            f"{source}: {name} is {value}; it must be a whole number of at least 1"
        )
    return value


def _rope(values: Mapping[str, Any], source: Path) -> Rope:
    """transformers 5 writes `rope_parameters`; those before, `rope_theta` and `rope_scaling`."""
    objects = (dict, type(None))
    scaled = field(values, "rope_scaling", objects, source, None)
    plain = field(values, "rope_parameters", objects, source, None)
    # As it reads them: the older field wins, and a base beside the parameters is one of them.
    parameters = {"rope_theta": values.get("rope_theta", 10_000.0), **(scaled or plain or {})}
    for name, value in parameters.items():
        if isinstance(value, dict):
            raise CheckpointError(
                f"{source}: rope_parameters has an object {shown(name)}; "
                "only the same positions in all layers are supported"
            )
    base = field(parameters, "rope_theta", float, source)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    scaling: Scaling | None
    match kind:
        case "default":
            scaling = None
        case "linear":
            scaling = LinearScaling(field(parameters, "factor", float, source))
        case "llama3":
            scaling = Llama3Scaling(
                field(parameters, "factor", float, source),
                field(parameters, "low_freq_factor", float, source),
                field(parameters, "high_freq_factor", float, source),
                field(parameters, "original_max_position_embeddings", int, source),
            )
        case _:
            raise CheckpointError(
                f"{source}: rope_type is {shown(kind)}; it must be default, linear or llama3"
            )
    partial = parameters.get("partial_rotary_factor", 1.0)
    if partial not in (None, 1.0):
        raise CheckpointError(
            f"{source}: partial_rotary_factor is {shown(partial)}; only 1.0 is supported"
        )
    return Rope(base, scaling)


def says_tied(values: Mapping[str, Any], source: Path) -> bool:
    """Whether the configuration says that the head is the input embedding."""
    return field(values, "tie_word_embeddings", bool, source, _TIED[values["model_type"]])
