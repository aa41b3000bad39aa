"""What other programs call the parts of a network, by family: one table for each kind of file.

A name of ours stands for one of theirs or for several, which are stored here as one: queries, keys
and values beside each other, gate and up beside each other.
"""

import re
from collections.abc import Mapping

from model.architecture import Architecture
from model.errors import UsageError

Table = Mapping[str, tuple[str, ...]]
"""Their layers for each of ours, in the order of its output channels; `{}` is the block."""

HF_GPT2: Table = {
    "embedding": ("wte",),
    "positions": ("wpe",),
    "norm": ("ln_f",),
    "head": ("lm_head",),
    "attention_norm": ("h.{}.ln_1",),
    "attention.qkv": ("h.{}.attn.c_attn",),
    "attention.out": ("h.{}.attn.c_proj",),
    "mlp_norm": ("h.{}.ln_2",),
    "mlp.up": ("h.{}.mlp.c_fc",),
    "mlp.down": ("h.{}.mlp.c_proj",),
}
"""Without the `transformer.` that stands before some of them in some files."""

HF_LLAMA: Table = {
    "embedding": ("model.embed_tokens",),
    "norm": ("model.norm",),
    "head": ("lm_head",),
    "attention_norm": ("model.layers.{}.input_layernorm",),
    "attention.qkv": tuple(f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv"),
    "attention.q_norm": ("model.layers.{}.self_attn.q_norm",),
    "attention.k_norm": ("model.layers.{}.self_attn.k_norm",),
    "attention.out": ("model.layers.{}.self_attn.o_proj",),
    "mlp_norm": ("model.layers.{}.post_attention_layernorm",),
    "mlp.gate_up": ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
    "mlp.down": ("model.layers.{}.mlp.down_proj",),
}
"""Of Llama, and of Qwen after it."""

GGUF: Table = {
    "embedding": ("token_embd",),
    "positions": ("position_embd",),
    "norm": ("output_norm",),
    "head": ("output",),
    "attention_norm": ("blk.{}.attn_norm",),
    "attention.qkv": ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
    "attention.q_norm": ("blk.{}.attn_q_norm",),
    "attention.k_norm": ("blk.{}.attn_k_norm",),
    "attention.out": ("blk.{}.attn_output",),
    "mlp_norm": ("blk.{}.ffn_norm",),
    "mlp.gate_up": ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
    "mlp.up": ("blk.{}.ffn_up",),
    "mlp.down": ("blk.{}.ffn_down",),
}

GGUF_GPT2: Table = {**GGUF, "attention.qkv": ("blk.{}.attn_qkv",)}

HUGGING_FACE = {"gpt2": HF_GPT2, "llama": HF_LLAMA, "qwen2": HF_LLAMA, "qwen3": HF_LLAMA}
"""By `model_type`."""
GGUF_FAMILIES = {"gpt2": GGUF_GPT2, "llama": GGUF, "qwen2": GGUF, "qwen3": GGUF}
"""By `general.architecture`."""

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def their_names(table: Table, name: str) -> tuple[str, ...]:
    """Their tensors that ours called `name` is made of, from the first output channels on."""
    path, _, kind = name.rpartition(".")
    block = _BLOCK.match(path)
    number = block[1] if block else ""
    return tuple(f"{layer.format(number)}.{kind}" for layer in table[_BLOCK.sub("", path)])


def in_their_words(message: str, names: Mapping[str, str]) -> str:
    """An error about an architecture, with their names of its fields in the place of ours."""
    ours = "|".join(map(re.escape, names))
    return re.sub(rf"\b({ours})\b", lambda found: names[found[0]], message)


def require_gpt2(config: Architecture, what: str) -> None:
    """Refuse `what`, which is for GPT-2 alone.

    Raises:
        UsageError: the network is of another family.
    """
    if not config.is_gpt2:
        raise UsageError(f"{what}: only networks with GPT-2's choices are supported")
