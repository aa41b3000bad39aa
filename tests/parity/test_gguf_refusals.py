"""GGUF files that ask for what is not computed here, or that contradict themselves, are refused by
file and field, before a network of the size that they ask for is built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.parity.families import new_peer
from tests.parity.gguf_files import Writer, write_gguf
from tests.parity.test_refusals import BASES, refuse

Change = Callable[[Writer], object]


def written(path: Path, family: str, change: Change) -> Path:
    return write_gguf(path / "x.gguf", new_peer(BASES[family]), change=change)


def put(name: str, value: Any) -> Change:
    """What sets a field, whatever was there before; None takes it away."""

    def change(writer: Writer) -> None:
        writer.kv_data[0].pop(name, None)
        match value:
            case None:
                return
            case bool():
                writer.add_bool(name, value)
            case int():
                (writer.add_uint64 if value >= 2**31 else writer.add_int32)(name, value)
            case float():
                writer.add_float32(name, value)
            case str():
                writer.add_string(name, value)
            case list():
                writer.add_array(name, value)

    return change


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama", "general.architecture", "mamba"),
        ("llama", "general.architecture", "gemma3"),
        ("llama", "general.architecture", None),
        ("llama", "general.architecture", 7),
        ("llama", "llama.expert_count", 8),
        ("llama", "llama.attention.sliding_window", 16),
        ("qwen3", "qwen3.attention.sliding_window", 16),
        ("llama", "llama.attention.clamp_kqv", 8.0),
        ("llama", "llama.attention.scale", 0.5),
        ("llama", "llama.attention.max_alibi_bias", 8.0),
        ("llama", "llama.attention.causal", False),
        ("llama", "llama.logit_scale", 2.0),
        ("llama", "llama.embedding_scale", 2.0),
        ("llama", "llama.residual_scale", 2.0),
        ("llama", "llama.final_logit_softcapping", 30.0),
        ("llama", "llama.rope.scaling.type", "yarn"),
        ("llama", "llama.rope.scaling.type", "longrope"),
        ("llama", "llama.rope.scaling.type", 1),
        ("llama", "llama.rope.scaling.attn_factor", 1.5),
        ("llama", "llama.rope.dimension_count", 8),
        ("llama", "llama.attention.value_length", 8),
        ("llama", "tokenizer.ggml.model", "llama"),
        ("llama", "tokenizer.ggml.pre", "deepseek-llm"),
    ],
)
def test_what_would_compute_something_else(
    tmp_path: Path, family: str, field: str, value: Any
) -> None:
    refuse(written(tmp_path, family, put(field, value)), "x.gguf", field)


COUNTS = (
    *("context_length", "block_count", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", ["4", True, -1, 0, 2**40, 4.0, [4], [4, 4]], ids=repr)
def test_counts_that_are_none(tmp_path: Path, name: str, value: Any) -> None:
    """Also lists, by which the layers of other networks differ."""
    refuse(written(tmp_path, "llama", put(f"llama.{name}", value)), "x.gguf", f"llama.{name}")


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        *(("llama", f"llama.{name}", None) for name in COUNTS[:5]),
        ("llama", "llama.attention.layer_norm_rms_epsilon", None),
        ("llama", "llama.attention.layer_norm_rms_epsilon", "1e-5"),
        ("llama", "llama.attention.layer_norm_rms_epsilon", 0.0),
        ("llama", "llama.attention.layer_norm_rms_epsilon", float("nan")),
        ("gpt2", "gpt2.attention.layer_norm_epsilon", 2.0),
        ("llama", "llama.rope.freq_base", "1e4"),
        ("llama", "llama.rope.freq_base", -1.0),
        ("llama", "llama.rope.freq_base", float("inf")),
        ("llama", "llama.rope.scaling.factor", "4"),
        ("llama", "llama.rope.scaling.factor", -4.0),
        ("llama", "llama.rope.scaling.factor", float("nan")),
        ("llama", "llama.attention.head_count_kv", 3),
        ("llama", "llama.context_length", 2**21),
        ("gpt2", "gpt2.attention.head_count", 7),
        ("llama", "tokenizer.ggml.tokens", None),
        ("llama", "tokenizer.ggml.tokens", "a"),
        ("llama", "tokenizer.ggml.eos_token_id", 300),
        ("llama", "tokenizer.ggml.eos_token_id", -1),
    ],
)
def test_fields_that_make_no_sense(tmp_path: Path, family: str, field: str, value: Any) -> None:
    refuse(written(tmp_path, family, put(field, value)), "x.gguf", field)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("block_count", 2000, "2,000 blocks"),
        ("embedding_length", 2**31, "llama.embedding_length"),
        ("embedding_length", 2**31 - 64, "parameters"),
        ("feed_forward_length", 2**31 - 1, "parameters"),
        ("attention.head_count", 2**28, "parameters"),
    ],
)
def test_networks_that_the_file_cannot_hold(
    tmp_path: Path, name: str, value: int, said: str
) -> None:
    path = written(tmp_path, "llama", put(f"llama.{name}", value))
    refuse(path, "x.gguf", said, seconds=2.0)


def drop(name: str) -> Change:
    return lambda writer: writer.tensors[0].pop(name)


def add(name: str, *shape: int, kind: str = "F32", value: float = 1.0) -> Change:
    def change(writer: Writer) -> None:
        writer.tensors[0].pop(name, None)
        number = gguf.GGMLQuantizationType[kind]
        values: Any = np.full(shape, value, dtype=np.float32)
        if kind != "F32":
            block, size = gguf.GGML_QUANT_SIZES[number]
            values = np.zeros((*shape[:-1], shape[-1] // block * size), dtype=np.uint8)
        writer.add_tensor(name, values, raw_dtype=number)

    return change


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("llama", drop("token_embd.weight"), ("token_embd.weight",)),
        ("llama", drop("output_norm.weight"), ("output_norm.weight",)),
        ("llama", drop("blk.0.attn_k.weight"), ("blk.0.attn_k.weight",)),
        ("qwen2", drop("blk.0.attn_v.bias"), ("blk.0.attn_v.bias",)),
        ("qwen3", drop("blk.0.attn_q_norm.weight"), ("blk.0.attn_q_norm.weight",)),
        ("gpt2", drop("position_embd.weight"), ("position_embd.weight",)),
        ("gpt2", drop("blk.0.attn_qkv.bias"), ("blk.0.attn_qkv.bias",)),
        ("llama", add("blk.0.attn_q.bias", 64), ("blk.0.attn_q.bias",)),
        ("llama", add("blk.1.attn_q.weight", 64, 64), ("blk.1.attn_q.weight",)),
        ("llama", add("blk.0.ffn_gate_exps.weight", 2, 88, 64), ("ffn_gate_exps",)),
        ("llama", add("rope_factors_long.weight", 8), ("rope_factors_long.weight",)),
        ("gpt2", add("rope_freqs.weight", 8), ("rope_freqs.weight",)),
        ("qwen2", add("rope_freqs.weight", 8), ("rope_freqs.weight",)),
        ("llama", add("rope_freqs.weight", 7), ("rope_freqs.weight has 7",)),
        ("llama", add("rope_freqs.weight", 8, value=0.0), ("rope_freqs.weight is 0",)),
        ("llama", add("rope_freqs.weight", 4096), ("rope_freqs.weight", "(4096,)")),
        ("llama", add("token_embd.weight", 299, 64), ("tokens", "299")),
        ("llama", add("token_embd.weight", 300), ("token_embd.weight",)),
        ("llama", add("output.weight", 300, 32), ("output.weight", "(300, 32)")),
        ("llama", add("blk.0.attn_k.weight", 32, 64), ("blk.0.attn_k.weight", "(32, 64)")),
        ("llama", add("blk.0.attn_k.weight", 64), ("blk.0.attn_k.weight", "(64,)")),
        ("llama", add("blk.0.attn_k.weight", 1, 64, 64), ("blk.0.attn_k.weight", "(1, 64, 64)")),
        ("llama", add("blk.0.ffn_up.weight", 88, 64, kind="IQ4_NL"), ("ffn_up", "IQ4_NL")),
        ("llama", add("blk.0.ffn_up.weight", 88, 256, kind="IQ2_XS"), ("ffn_up", "IQ2_XS")),
        ("llama", add("blk.0.ffn_up.weight", 88, 256, kind="TQ1_0"), ("ffn_up", "TQ1_0")),
        ("llama", add("blk.0.ffn_up.weight", 88, 64, kind="MXFP4"), ("ffn_up", "MXFP4")),
        ("llama", add("blk.0.ffn_up.weight", 88, 64, kind="I32"), ("ffn_up", "I32")),
    ],
)
def test_tensors(tmp_path: Path, family: str, change: Change, said: tuple[str, ...]) -> None:
    refuse(written(tmp_path, family, change), "x.gguf", *said)


def test_divisors_beside_a_factor(tmp_path: Path) -> None:
    def change(writer: Writer) -> None:
        add("rope_freqs.weight", 8)(writer)
        put("llama.rope.scaling.factor", 4.0)(writer)

    refuse(written(tmp_path, "llama", change), "x.gguf", "rope_freqs", "llama.rope.scaling.factor")
