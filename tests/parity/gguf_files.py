"""Networks of `transformers` written as GGUF, as llama.cpp's converter does it."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.tokenizer import byte_of_character
from tests.parity.families import Peer

KINDS = gguf.GGMLQuantizationType
Writer = Any
"""A `gguf.GGUFWriter`."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SCALES = {
    "Q2_K": (80, (1e-2, 1.5e-2)),
    "Q3_K": (108, (3e-3,)),
    "Q4_K": (0, (4e-4, 3e-3)),
    "Q5_K": (0, (2e-4, 3e-3)),
    "Q6_K": (208, (1e-4,)),
}
"""Where the scales of a block are, and scales that give weights of the usual size; `gguf` can read
these kinds, and not write them."""


def write_gguf(
    path: Path,
    peer: Peer,
    kind: str = "F32",
    *,
    head: str | None = None,
    change: Callable[[Writer], object] = lambda writer: None,
) -> Path:
    """Write a file, and give `peer` the weights that it then holds.

    Args:
        kind: of the matrices; rows that it does not divide are stored as F16.
        head: of the output head, which is then stored even if it is tied.
        change: alters what the writer is about to write.
    """
    config = peer.config
    family = config.model_type
    writer = gguf.GGUFWriter(path, family)
    add_fields(writer, config)
    add_tokenizer(writer, config.vocab_size)
    names = gguf.get_tensor_name_map(
        next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family),
        config.num_hidden_layers,
    )
    parameters = dict(peer.named_parameters())
    if head is not None:
        parameters["lm_head.weight"] = peer.lm_head.weight
    for name, parameter in parameters.items():
        turned = "attn.c_" in name or "mlp.c_" in name
        weight = parameter.data.T if turned and parameter.ndim == 2 else parameter.data
        wanted = head if name == "lm_head.weight" and head else kind
        blocks, number = stored(weight.contiguous(), wanted, name)
        weight.copy_(torch.from_numpy(gguf.dequantize(blocks, number)).view(weight.shape))
        heads = 0
        if family == "llama" and "q_proj" in name:
            heads = config.num_attention_heads
        if family == "llama" and "k_proj" in name:
            heads = config.num_key_value_heads
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(theirs, side_by_side(blocks, heads), raw_dtype=number)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_fields(writer: Writer, config: Any) -> None:
    """What the file says of the network, and the divisors of Llama 3's frequencies."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, config.head_dim))


def llama3_divisors(rope: dict[str, Any], head_dim: int) -> NDArray[np.float32]:
    """(head_dim / 2,)"""
    original = rope["original_max_position_embeddings"]
    divisors = []
    for pair in range(head_dim // 2):
        turns = original / (2 * math.pi * rope["rope_theta"] ** (2 * pair / head_dim))
        kept = (turns - rope["low_freq_factor"]) / (
            rope["high_freq_factor"] - rope["low_freq_factor"]
        )
        kept = min(max(kept, 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / rope["factor"] + kept))
    return np.array(divisors, dtype=np.float32)


def add_tokenizer(writer: Writer, vocab_size: int) -> None:
    """Bytes, pairs of them, and three special tokens, two of which end a text."""
    alphabet = sorted(byte_of_character(), key=lambda c: byte_of_character()[c])
    letters = alphabet[97:123] + alphabet[:97] + alphabet[123:]
    count = vocab_size - len(alphabet) - len(SPECIAL)
    pairs = list(itertools.islice(itertools.product(letters, letters), count))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*alphabet, *map("".join, pairs), *SPECIAL])
    writer.add_token_types([1] * (vocab_size - len(SPECIAL)) + [3] * len(SPECIAL))
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_bos_token_id(vocab_size - 3)
    writer.add_eos_token_id(vocab_size - 1)
    writer.add_add_bos_token(False)


def side_by_side(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """The rows of so many heads with the halves of each pair beside each other; 0 changes none."""
    if not heads:
        return rows
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def stored(weight: Tensor, kind: str, name: str) -> tuple[NDArray[Any], Any]:
    """A tensor in its stored form, and the number of that: vectors and positions in F32."""
    if weight.ndim == 1 or "wpe" in name:
        return weight.numpy(), KINDS.F32
    if weight.shape[1] % gguf.GGML_QUANT_SIZES[KINDS[kind]][0]:
        kind = "F16"
    if kind in _SCALES:
        return _random_blocks(weight, kind, name), KINDS[kind]
    return gguf.quants.quantize(weight.numpy(), KINDS[kind]), KINDS[kind]


def _random_blocks(weight: Tensor, kind: str, name: str) -> NDArray[np.uint8]:
    """Any numbers of the kind, for a weight of that shape."""
    rng = np.random.default_rng(sum(name.encode()))
    block, size = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    blocks = rng.integers(0, 256, (weight.numel() // block, size), dtype=np.uint8)
    at, scales = _SCALES[kind]
    values = np.array(scales, dtype=np.float16).view(np.uint8)
    blocks[:, at : at + len(values)] = values
    return blocks.reshape(len(weight), -1)
