"""Hugging Face's `config.json` as one of our architectures, by its `model_type`, and the way back.

What would compute something else than the family's usual network is refused by its name, before
anything is read of the weights.
"""

from collections.abc import Mapping
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch

from model.architecture import Architecture
from model.convert.families import FAMILIES, family_of, in_their_words
from model.errors import CheckpointError, UsageError
from model.json_files import field, shown
from model.rope import DivisorScaling, LinearScaling, Llama3Scaling, Rope, Scaling, frequencies
from model.weight_files import dtype_name

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
_NAMES = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_kv_head": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_width": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
_GPT2_NAMES = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "mlp_width": "n_inner",
    "norm_eps": "layer_norm_epsilon",
}
"""Their names of the fields of an `Architecture`."""
_SHAPE = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd")
_LLAMA3 = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)
"""Their names of the fields of a `Llama3Scaling`, in its order."""
_ROPE_NAMES = {
    "rope.base": "rope_theta",
    "rope.scaling.factor": "factor",
    "rope.scaling.low_freq_factor": "low_freq_factor",
    "rope.scaling.original_context": "original_max_position_embeddings",
}
_LLAMA31 = (1.0, 4.0, 8192)
"""What all Llamas from 3.1 to 3.3 have after the factor."""


def read_architecture(values: Mapping[str, Any], source: Path) -> Architecture:
    """The architecture that `values`, the content of `source`, describe.

    Raises:
        CheckpointError: of another family, or a field is missing, wrongly typed or has a value that
            is not supported; names it.
    """
    family = values.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{source}: model_type is {shown(family)}; it must be one of {', '.join(FAMILIES)}"
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
        names = _GPT2_NAMES if family == "gpt2" else _NAMES | _ROPE_NAMES
        raise CheckpointError(f"{source}: {in_their_words(str(error), names)}") from error


def _gpt2(values: Mapping[str, Any], source: Path) -> Architecture:
    shape: dict[str, Any] = {name: _count(values, _GPT2_NAMES[name], source) for name in _SHAPE}
    return Architecture(
        **shape,
        mlp_width=_count(values, _GPT2_NAMES["mlp_width"], source, 4 * shape["n_embd"]),
        norm_eps=field(values, _GPT2_NAMES["norm_eps"], float, source, 1e-5),
        **FAMILIES["gpt2"].choices,
    )


def _modern(family: str, values: Mapping[str, Any], source: Path) -> Architecture:
    shape: dict[str, Any] = {name: _count(values, _NAMES[name], source) for name in _SHAPE}
    # The default of other families than Llama is that of one size.
    kv_heads = (shape["n_head"],) if family == "llama" else ()
    return Architecture(
        **shape,
        n_kv_head=_count(values, _NAMES["n_kv_head"], source, *kv_heads),
        head_dim=_count(values, _NAMES["head_dim"], source, 128 if family == "qwen3" else 0),
        mlp_width=_count(values, _NAMES["mlp_width"], source),
        norm_eps=field(values, _NAMES["norm_eps"], float, source, 1e-6),
        rope=_rope(values, source),
        **FAMILIES[family].choices,
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
            *factors, original = _LLAMA3
            factor, low, high = (field(parameters, name, float, source) for name in factors)
            scaling = Llama3Scaling(factor, low, high, field(parameters, original, int, source))
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


def config_values(
    config: Architecture,
    architecture: str,
    tokens: Mapping[str, Any],
    dtype: torch.dtype,
    what: str = "--format hf",
) -> dict[str, Any]:
    """What their `config.json` holds for a network.

    Args:
        architecture: their class.
        tokens: `bos_token_id`, `eos_token_id` and `pad_token_id`.
        dtype: of the stored weights.
        what: is to be done, for errors.

    Raises:
        UsageError: no family has the network's choices; names them.
    """
    family = family_of(config, what)
    names = _GPT2_NAMES if family == "gpt2" else _NAMES
    values = {their: getattr(config, ours) for ours, their in names.items()}
    if family == "qwen2" and config.query_width == config.n_embd:
        del values["head_dim"]  # it is no field of that family
    usual = {name: alone for name, (alone, *more) in _ARITHMETIC[family].items() if not more}
    return {
        "architectures": [architecture],
        "model_type": family,
        **values,
        **usual,
        **({} if config.rope is None else _rope_values(config.rope, config.head_dim // 2, what)),
        **tokens,
        "tie_word_embeddings": config.tied,
        "dtype": dtype_name(dtype),
    }


def _rope_values(rope: Rope, pairs: int, what: str) -> dict[str, Any]:
    """In the form of before transformers 5, which reads it as well."""
    scaling = rope.scaling
    if isinstance(scaling, DivisorScaling):
        scaling = _llama3_of(rope, scaling, pairs, what)
    values: dict[str, Any] | None
    match scaling:
        case None:
            values = None
        case LinearScaling(factor):
            values = {"factor": factor}
        case Llama3Scaling():
            values = dict(zip(_LLAMA3, astuple(scaling), strict=True))
    if values is not None:
        assert scaling is not None
        values = {"rope_type": scaling.kind, **values}
    return {"rope_theta": rope.base, "rope_scaling": values}


def _llama3_of(rope: Rope, scaling: DivisorScaling, pairs: int, what: str) -> Llama3Scaling:
    """The parameters of Llama 3.1 to 3.3, where a GGUF file's divisors are what they give."""
    known = Llama3Scaling(max(scaling.divisors), *_LLAMA31)
    given, wanted = (frequencies(replace(rope, scaling=one), pairs) for one in (known, scaling))
    if not torch.allclose(given, wanted, rtol=1e-6, atol=0.0):
        raise UsageError(
            f"{what}: rope.scaling has divisors, as GGUF's rope_freqs, which are not those of "
            "Llama 3.1; config.json has no form for others"
        )
    return known
