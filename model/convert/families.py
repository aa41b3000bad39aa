"""The families: which choices each is made of, and what other programs call its parts.

Reading and writing go by the same tables. A name of ours stands for one of theirs or for several,
which are stored here as one: queries, keys and values beside each other, gate and up beside each
other.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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

HF_PREFIX = "transformer."
"""What `transformers` puts before the names of `HF_GPT2`, but that of the head."""


@dataclass(frozen=True)
class Family:
    """One of the families, by its name in `config.json` and in GGUF."""

    hugging_face: Table
    gguf: Table
    model_class: str
    """Of `transformers`, for language models."""
    classifier_class: str
    """Of `transformers`, for texts that get one label of several."""
    choices: Mapping[str, Any]
    """Fields of an `Architecture` that are the same in all networks of the family."""
    rotary: bool = True

    def differences(self, config: Architecture) -> Iterator[str]:
        """In what a network is none of this family, in words."""
        for name, value in self.choices.items():
            if getattr(config, name) != value:
                yield f"{name} is {getattr(config, name)!r}, not {value!r}"
        if (config.rope is not None) != self.rotary:
            yield f"its positions are {'learned' if self.rotary else 'rotary'}"
        if not self.rotary and (config.n_kv_head, config.query_width) != (
            config.n_head,
            config.n_embd,
        ):
            yield (
                f"n_kv_head is {config.n_kv_head} and head_dim {config.head_dim}, "
                f"not {config.n_head} and n_embd / n_head"
            )


_GPT2 = {"norm": "layer", "mlp": "gelu", "bias": "all", "qk_norm": False}
_LLAMA = {"norm": "rms", "mlp": "swiglu", "bias": "none", "qk_norm": False}

FAMILIES = {
    "gpt2": Family(
        *(HF_GPT2, GGUF_GPT2, "GPT2LMHeadModel", "GPT2ForSequenceClassification", _GPT2),
        rotary=False,
    ),
    "llama": Family(HF_LLAMA, GGUF, "LlamaForCausalLM", "LlamaForSequenceClassification", _LLAMA),
    "qwen2": Family(
        *(HF_LLAMA, GGUF, "Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
        {**_LLAMA, "bias": "qkv"},
    ),
    "qwen3": Family(
        *(HF_LLAMA, GGUF, "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
        {**_LLAMA, "qk_norm": True},
    ),
}
"""By `model_type`, which is also `general.architecture`."""

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


def family_of(config: Architecture, what: str) -> str:
    """The name of the family that has a network's choices.

    Args:
        what: is to be done with it, for the error: a flag with its value.

    Raises:
        UsageError: no family has them; names the nearest one and what it has otherwise.
    """
    found = {name: list(family.differences(config)) for name, family in FAMILIES.items()}
    name = min(found, key=lambda name: len(found[name]))
    if found[name]:
        raise UsageError(
            f"{what}: no family has this network's choices ({', '.join(FAMILIES)} are known); of "
            f"the nearest, {name}, it differs: {'; '.join(found[name])}"
        )
    return name
