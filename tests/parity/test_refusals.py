"""Files that ask for what is not computed here, or that are damaged, are refused by file and field.

Every one in one line, and before a network of the size that it asks for is built.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import load_base
from model.errors import CheckpointError
from tests.parity.families import CASES, Case, new_peer, rewrite_config, write_peer

SMALL = {"num_hidden_layers": 1, "max_position_embeddings": 32}
BASES = {
    "gpt2": Case("gpt2", {"n_layer": 1, "n_positions": 32}),
    "llama": Case("llama", CASES["llama-each-its-own"].fields | SMALL),
    "qwen2": Case("qwen2", CASES["qwen2-groups"].fields | SMALL),
    "qwen3": Case("qwen3", CASES["qwen3-groups"].fields | SMALL),
}


def refuse(path: Path, *said: str, seconds: float = 5.0) -> None:
    """`path` is refused in one line with all that is `said`, soon."""
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_base(path)
    assert time.monotonic() - started < seconds
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    for words in said:
        assert words in message


def changed(directory: Path, family: str, fields: dict[str, Any]) -> Path:
    """A directory of the family, whose config.json says something else."""
    write_peer(new_peer(BASES[family]), directory)
    rewrite_config(directory, lambda values: values.update(fields))
    return directory


ROPE = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16}
OTHER_NETWORKS = [
    ("llama", "model_type", "mistral"),
    ("llama", "model_type", "gemma"),
    ("llama", "model_type", "phi3"),
    ("llama", "model_type", None),
    ("llama", "hidden_act", "gelu"),
    ("llama", "attention_bias", True),
    ("llama", "mlp_bias", True),
    ("llama", "partial_rotary_factor", 0.5),
    ("llama", "pretraining_tp", 2),
    ("qwen2", "hidden_act", "gelu_pytorch_tanh"),
    ("qwen2", "use_sliding_window", True),
    ("qwen2", "layer_types", ["full_attention", "sliding_attention"]),
    ("qwen2", "use_mrope", True),
    ("qwen3", "attention_bias", True),
    ("qwen3", "use_sliding_window", True),
    ("qwen3", "layer_types", ["sliding_attention"]),
    ("gpt2", "activation_function", "relu"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True),
    ("gpt2", "scale_attn_weights", False),
    ("gpt2", "reorder_and_upcast_attn", True),
    ("gpt2", "add_cross_attention", True),
    ("llama", "quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("llama", "architectures", ["LlamaForTokenClassification"]),
    ("llama", "architectures", ["Qwen2ForSequenceClassification"]),
    ("llama", "architectures", ["GPT2ForSequenceClassification"]),
    ("llama", "architectures", ["LlamaModel"]),
    *(
        ("llama", field, {"rope_type": kind, **ROPE})
        for kind in ("yarn", "dynamic", "longrope", "proportional")
        for field in ("rope_parameters", "rope_scaling")
    ),
    ("llama", "rope_scaling", {"type": "ntk", "factor": 2.0}),
    ("llama", "rope_parameters", {"full_attention": {"rope_type": "default"}}),
    ("llama", "rope_parameters", {"partial_rotary_factor": 0.5}),
]


@pytest.mark.parametrize(("family", "field", "value"), OTHER_NETWORKS, ids=str)
def test_what_would_compute_something_else(
    tmp_path: Path, family: str, field: str, value: Any
) -> None:
    path = changed(tmp_path, family, {field: value})
    named = field
    if isinstance(value, dict):
        named = "partial_rotary_factor" if "partial_rotary_factor" in value else "rope_"
        named = "quantization_config" if "quant_method" in value else named
    refuse(path, "config.json", named)


WRONG: tuple[Any, ...] = ("4", True, -1, 0, 2**40, 1.5, [4], {"a": {"b": 1}})
COUNTS = {
    "gpt2": ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "n_inner"),
    "llama": (
        *("vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads"),
        *("hidden_size", "num_key_value_heads", "intermediate_size", "head_dim"),
    ),
    "qwen3": ("head_dim", "num_key_value_heads"),
}


@pytest.mark.parametrize(
    ("family", "field"), [(family, field) for family in COUNTS for field in COUNTS[family]]
)
def test_counts_that_are_none(tmp_path: Path, family: str, field: str) -> None:
    changed(tmp_path, family, {})
    for value in WRONG:
        rewrite_config(tmp_path, lambda values, wrong=value: values.update({field: wrong}))
        refuse(tmp_path, "config.json", field)


@pytest.mark.parametrize(
    ("family", "fields", "named"),
    [
        ("llama", {"num_attention_heads": None}, "num_attention_heads"),
        ("llama", {"hidden_size": None}, "hidden_size"),
        ("qwen2", {"num_key_value_heads": None}, "num_key_value_heads"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("llama", {"head_dim": 15}, "head_dim"),
        ("llama", {"head_dim": None, "num_attention_heads": 5}, "num_attention_heads"),
        ("llama", {"max_position_embeddings": 2**21}, "max_position_embeddings"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ("llama", {"rms_norm_eps": None}, "rms_norm_eps"),
        ("llama", {"rms_norm_eps": -1e-5}, "rms_norm_eps"),
        ("llama", {"rms_norm_eps": 2}, "rms_norm_eps"),
        ("gpt2", {"layer_norm_epsilon": True}, "layer_norm_epsilon"),
        ("gpt2", {"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
        ("gpt2", {"n_head": 5}, "n_head"),
        ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        ("llama", {"tie_word_embeddings": None}, "tie_word_embeddings"),
        ("llama", {"architectures": -1}, "architectures"),
        ("llama", {"architectures": [-1]}, "architectures"),
        ("llama", {"architectures": {}}, "architectures"),
        ("llama", {"layer_types": "full_attention"}, "layer_types"),
        ("llama", {"hidden_act": ["silu"]}, "hidden_act"),
        ("llama", {"attention_bias": 0}, "attention_bias"),
        ("llama", {"attention_bias": None}, "attention_bias"),
        ("llama", {"quantization_config": -1}, "quantization_config"),
        ("llama", {"rope_parameters": "default"}, "rope_parameters"),
        ("llama", {"rope_parameters": [1e4]}, "rope_parameters"),
        ("llama", {"rope_scaling": 8}, "rope_scaling"),
        ("llama", {"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta"),
        ("llama", {"rope_parameters": {"rope_theta": -1}}, "rope_theta"),
        ("llama", {"rope_parameters": {"rope_theta": 0}}, "rope_theta"),
        ("llama", {"rope_parameters": None, "rope_theta": None}, "rope_theta"),
        ("llama", {"rope_parameters": {"rope_type": -1}}, "rope_type"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": True}}, "factor"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": -2}}, "factor"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}},
            "high_freq_factor",
        ),
        ("gpt2", {"penwright": -1}, "penwright"),
        ("gpt2", {"penwright": {"threshold": "high"}}, "threshold"),
        ("gpt2", {"penwright": {"positive": 1}}, "positive"),
        ("gpt2", {"id2label": 2}, "id2label"),
        ("gpt2", {"eos_token_id": "1"}, "eos_token_id"),
    ],
    ids=str,
)
def test_fields_that_make_no_sense(
    tmp_path: Path, family: str, fields: dict[str, Any], named: str
) -> None:
    refuse(changed(tmp_path, family, fields), "config.json", named)


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        ("llama", {"num_hidden_layers": 2000}, "2,000 blocks"),
        ("gpt2", {"n_layer": 10**6}, "1,000,000 blocks"),
        ("llama", {"hidden_size": 2**31}, "hidden_size"),
        ("llama", {"hidden_size": 2**31 - 16}, "parameters"),
        ("llama", {"intermediate_size": 2**31 - 1}, "parameters"),
        ("llama", {"vocab_size": 2**31 - 1}, "parameters"),
        ("gpt2", {"n_positions": 2**20}, "parameters"),
    ],
    ids=str,
)
def test_networks_that_their_files_cannot_hold(
    tmp_path: Path, family: str, fields: dict[str, Any], said: str
) -> None:
    refuse(changed(tmp_path, family, fields), "config.json", said, seconds=2.0)


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
QUERY, KEY = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")
NORM, DOWN = "model.norm.weight", "model.layers.0.mlp.down_proj.weight"
Tensors = dict[str, Tensor]


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("llama", lambda t: t.pop(HEAD), (HEAD, "tie_word_embeddings")),
        ("llama", lambda t: t.pop(KEY), (KEY,)),
        ("llama", lambda t: t.pop(EMBEDDING), (EMBEDDING,)),
        ("llama", lambda t: t.update({KEY: t[KEY][:32]}), (KEY, "(32, 64)", "(64, 64)")),
        ("llama", lambda t: t.update({DOWN: t[DOWN].T.contiguous()}), (DOWN, "(88, 64)")),
        ("llama", lambda t: t.update({NORM: t[NORM][None]}), (NORM, "(1, 64)")),
        ("llama", lambda t: t.update({QUERY: t[QUERY].int()}), (QUERY, "int32")),
        ("llama", lambda t: t.update({HEAD: t[HEAD].to(torch.int8)}), (HEAD, "int8")),
        ("llama", lambda t: t.update(extra=torch.zeros(2)), ("extra",)),
        (
            "llama",
            lambda t: t.update({"model.layers.1.mlp.down_proj.weight": t[DOWN].clone()}),
            ("model.layers.1.mlp.down_proj.weight",),
        ),
        (
            "llama",
            lambda t: t.update({QUERY.replace("weight", "bias"): torch.zeros(64)}),
            (QUERY.replace("weight", "bias"),),
        ),
        (
            "qwen2",
            lambda t: t.pop(QUERY.replace("weight", "bias")),
            (QUERY.replace("weight", "bias"),),
        ),
        (
            "qwen3",
            lambda t: t.pop("model.layers.0.self_attn.k_norm.weight"),
            ("model.layers.0.self_attn.k_norm.weight",),
        ),
        (
            "qwen2",
            lambda t: t.update({HEAD: torch.zeros_like(t[EMBEDDING])}),
            (HEAD, "tie_word_embeddings"),
        ),
        ("qwen2", lambda t: t.update({"score.weight": torch.zeros(2, 96)}), ("score.weight",)),
    ],
)
def test_tensors(
    tmp_path: Path, family: str, change: Callable[[Tensors], object], said: tuple[str, ...]
) -> None:
    write_peer(new_peer(BASES[family]), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    refuse(tmp_path, "model.safetensors", *said)


def test_a_tokenizer_with_more_tokens_than_the_network(tmp_path: Path) -> None:
    write_peer(new_peer(BASES["llama"]), tmp_path, tokens=310)
    refuse(tmp_path, "config.json", "vocab_size", "310")
