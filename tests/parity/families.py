"""Small networks of each family with random weights, as `transformers` makes and writes them."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.initialization import no_init_weights

from model.kv_cache import CacheStep, KVCache, blocks_for
from model.tokenizer import byte_of_character
from model.transformer import Transformer
from tests.model.engines import Span

Peer = Any
"""A language model of `transformers`."""

RELATIVE = 1e-4
"""Largest difference of a logit, in parts of the largest logit."""
TIE = 0.05
"""Of a logit: with a smaller lead, rounding may decide which token is the best."""
CONTEXT = 512
VOCABULARY = 300

_CLASSES = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


@dataclass(frozen=True)
class Case:
    """A family and the fields of its configuration that differ from those of `new_peer`."""

    family: str
    fields: dict[str, Any] = field(default_factory=dict)


def _heads(heads: int, kv_heads: int, head_dim: int, hidden: int = 64) -> dict[str, int]:
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_size": hidden,
    }


def _rope(theta: float, kind: str = "default", **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **parameters}}


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""A head of 16 has then slow, fast and middle rotations."""
TIED = {"tie_word_embeddings": True}

CASES = {
    "gpt2": Case("gpt2"),
    "gpt2-untied-wide": Case("gpt2", {"tie_word_embeddings": False, "n_inner": 100}),
    "llama-groups": Case(
        "llama", {**_heads(6, 2, 16, 96), **_rope(1e4, "linear", factor=4.0), **TIED}
    ),
    "llama-each-its-own": Case("llama", {**_heads(4, 4, 16), **_rope(100.0)}),
    "llama-one-key-head": Case("llama", {**_heads(4, 1, 16), **_rope(5e5, "llama3", **LLAMA3)}),
    "llama-wide-heads": Case(
        "llama", {**_heads(4, 2, 24), **_rope(1e4, "llama3", **LLAMA3), **TIED}
    ),
    "qwen2-groups": Case("qwen2", {**_heads(6, 2, 16, 96), **_rope(1e6), **TIED}),
    "qwen2-each-its-own": Case(
        "qwen2", {**_heads(4, 4, 12, 48), **_rope(1e4, "linear", factor=2.0)}
    ),
    "qwen3-groups": Case("qwen3", {**_heads(4, 2, 32), **_rope(1e6), **TIED}),
    "qwen3-one-key-head": Case("qwen3", {**_heads(3, 1, 16, 40), **_rope(1e4, "llama3", **LLAMA3)}),
}
"""Heads of 12 and 24 are none that the attention kernel takes."""
WIDE = Case(
    "llama",
    {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
    },
)
"""Of rows that a block of 256 divides."""
ONE_OF_EACH = ("gpt2", "llama-groups", "qwen2-groups", "qwen3-groups")


def new_peer(case: Case, seed: int = 0, **fields: Any) -> Peer:
    """A model in evaluation mode.

    Args:
        fields: of the configuration; these come before those of the case.
    """
    kind, of_kind = _CLASSES[case.family]
    shape: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
    if case.family == "gpt2":
        shape |= {"n_positions": CONTEXT, "n_embd": 64, "n_layer": 3, "n_head": 4}
    else:
        shape |= {"max_position_embeddings": CONTEXT, "num_hidden_layers": 3}
        shape |= {"intermediate_size": 88, "pad_token_id": None}
    config = kind(**(shape | case.fields | fields))
    with no_init_weights():  # all of them are overwritten below
        peer = of_kind(config).eval()
        peer.tie_weights()
    randomise(peer, seed)
    return peer


@torch.no_grad()
def randomise(peer: Peer, seed: int) -> None:
    """Weights far from their initial values, biases and norms too: nothing is 0 or 1 by chance,
    and logits differ clearly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peer.named_parameters():
        table = any(part in name for part in ("wte", "embed_tokens", "lm_head"))
        width = 1.0 if table else 0.5 if parameter.ndim == 1 else 0.25
        parameter.uniform_(-width, width, generator=generator)
        if parameter.ndim == 1 and ("ln_" in name or "norm" in name) and "weight" in name:
            parameter += 1.0


def write_peer(peer: Peer, directory: Path, *, tokens: int = VOCABULARY, **saving: Any) -> Path:
    """The directory that `transformers` writes, with a tokenizer of bytes and pairs of them."""
    peer.save_pretrained(directory, **saving)
    write_tokenizer(directory, tokens)
    return directory


def rewrite_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let `change` alter what is in config.json."""
    path = directory / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """vocab.json and merges.txt of that many tokens: bytes, pairs of bytes, the end token."""
    alphabet = sorted(byte_of_character(), key=lambda c: byte_of_character()[c])
    letters = alphabet[97:123] + alphabet[:97] + alphabet[123:]
    merges = list(itertools.islice(itertools.product(letters, letters), vocab_size - 257))
    tokens = [*alphabet, *("".join(pair) for pair in merges), "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def random_tokens(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY - 1, (count,), generator=generator).tolist()


@torch.no_grad()
def peer_logits(peer: Peer, tokens: list[int]) -> Tensor:
    """(time, vocab)"""
    logits: Tensor = peer(torch.tensor([tokens])).logits[0]
    return logits


@torch.no_grad()
def our_logits(model: Transformer, tokens: list[int]) -> Tensor:
    """(time, vocab)"""
    return model.logits(model(torch.tensor([tokens])))[0]


@torch.no_grad()
def cached_logits(
    model: Transformer,
    sequences: list[list[int]],
    steps: list[list[int]],
    *,
    dtype: torch.dtype = torch.float32,
    kernel: bool = True,
) -> list[Tensor]:
    """Logits of several sequences that are fed together.

    Args:
        steps: for each step, how many tokens each sequence brings.
        dtype: of the cache.
        kernel: whether the attention kernel may be used where it fits.
    """
    per_sequence = blocks_for(model.config.context_length)
    cache = KVCache(model.config, blocks=len(sequences) * per_sequence + 1, dtype=dtype)
    if not kernel:
        cache.paged = None
    # The blocks of a sequence lie apart, and not in their order.
    blocks = [range(i + 1, cache.blocks, len(sequences))[::-1] for i in range(len(sequences))]
    done = [0] * len(sequences)
    out: list[list[Tensor]] = [[] for _ in sequences]
    for counts in steps:
        turn = [i for i, count in enumerate(counts) if count]
        spans = [Span(blocks[i], done[i], counts[i]) for i in turn]
        tokens = [t for i in turn for t in sequences[i][done[i] : done[i] + counts[i]]]
        places = [p for i in turn for p in range(done[i], done[i] + counts[i])]
        hidden = model(
            torch.tensor(tokens), positions=torch.tensor(places), cache=CacheStep(cache, spans)
        )
        parts = model.logits(hidden).split([counts[i] for i in turn])
        for i, part in zip(turn, parts, strict=True):
            out[i].append(part)
            done[i] += counts[i]
    assert done == [len(s) for s in sequences], "the steps do not cover the sequences"
    return [torch.cat(parts) for parts in out]


def best_tokens(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best token at each place, and whether it leads by so much that rounding cannot decide:
    (time, vocab) -> (time,) twice."""
    best, second = logits.topk(2).values.unbind(-1)
    return logits.argmax(-1), best - second >= TIE


def greedy(llama: Any, prompt: list[int], new: int) -> list[int]:
    """The continuation by llama.cpp, of which not even an end token is the end."""
    llama.reset()
    return list(itertools.islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), new))


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest one, in parts of the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_close(ours: Tensor, theirs: Tensor, relative: float = RELATIVE) -> None:
    assert theirs.std() > 0.5, "the logits must differ clearly for this to mean something"
    assert difference(ours, theirs) <= relative
