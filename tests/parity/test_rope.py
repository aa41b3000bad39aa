"""Rotary positions are those of `transformers`, to the bit and far from the start."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.convert import read_hugging_face
from model.rope import DivisorScaling, LinearScaling, Llama3Scaling, Rope, Scaling, frequencies
from model.transformer import Transformer
from tests.parity.families import (
    CASES,
    LLAMA3,
    RELATIVE,
    assert_close,
    cached_logits,
    difference,
    new_peer,
    our_logits,
    random_tokens,
    write_peer,
)

SCALINGS = (
    None,
    LinearScaling(3.0),
    Llama3Scaling(8.0, 1.0, 4.0, 64),
    Llama3Scaling(32.0, 1.0, 4.0, 8192),
    Llama3Scaling(3.0, 0.5, 7.0, 100),
)


def peer_frequencies(base: float, scaling: Scaling | None, dim: int) -> torch.Tensor:
    """(dim / 2,)"""
    kind = "default" if scaling is None else scaling.kind
    parameters: dict[str, Any] = {"rope_type": kind, "rope_theta": base}
    match scaling:
        case LinearScaling(factor):
            parameters["factor"] = factor
        case Llama3Scaling(factor, low, high, original):
            parameters |= dict(zip(LLAMA3, (factor, low, high, original), strict=True))
    config = transformers.LlamaConfig(
        hidden_size=dim,
        num_attention_heads=1,
        max_position_embeddings=2**17,
        rope_parameters=parameters,
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
    compute = ROPE_INIT_FUNCTIONS.get(kind, embedding.compute_default_rope_parameters)
    found, scale = compute(config)
    assert scale == 1.0
    return found


@pytest.mark.parametrize("dim", [16, 64, 128])
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("base", [100.0, 1e4, 5e5, 1e6])
def test_frequencies(base: float, scaling: Scaling | None, dim: int) -> None:
    """The same bits: a rounding would be another angle at a far position."""
    ours = frequencies(Rope(base, scaling), dim // 2)
    assert torch.equal(ours, peer_frequencies(base, scaling, dim))


def test_divisors_give_the_scaled_frequencies() -> None:
    """As GGUF has them, which stores what each frequency is divided by."""
    ours = frequencies(Rope(5e5, Llama3Scaling(8.0, 1.0, 4.0, 64)), 32)
    divisors = tuple((frequencies(Rope(5e5), 32) / ours).tolist())
    again = frequencies(Rope(5e5, DivisorScaling(divisors)), 32)
    assert torch.allclose(again, ours, rtol=3e-7, atol=0)


def test_a_head_of_16_has_three_kinds_of_rotations() -> None:
    """Those that are kept, those divided by 8, and those between."""
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 64)
    ratios = frequencies(Rope(5e5), 8) / frequencies(Rope(5e5, scaling), 8)
    assert ratios[0] == 1
    assert 1.01 < ratios[1] < 7.9
    assert ratios[-1] == 8


@pytest.mark.parametrize("name", ["llama-groups", "llama-one-key-head", "qwen3-groups"])
def test_far_from_the_start(name: str, tmp_path: Path) -> None:
    """The last tokens of a context of 8,192, which came through the cache in chunks."""
    peer = new_peer(CASES[name], num_hidden_layers=2, max_position_embeddings=8192)
    model = read_hugging_face(write_peer(peer, tmp_path)).model
    tokens = random_tokens(8192)
    with torch.no_grad():
        theirs = peer(torch.tensor([tokens]), logits_to_keep=64).logits[0]
    [ours] = cached_logits(model, [tokens], [[512]] * 15 + [[500], [1], [11]])
    assert_close(ours[-64:], theirs)


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("gpt2")])
def test_they_matter(name: str, tmp_path: Path) -> None:
    """With another base, or without the scaling, the logits are clearly others."""
    model = read_hugging_face(write_peer(new_peer(CASES[name]), tmp_path)).model
    tokens = random_tokens(100)
    logits = our_logits(model, tokens)
    assert model.config.rope is not None
    rope = model.config.rope
    others = [Rope(rope.base * 2, rope.scaling)]
    others += [Rope(rope.base)] if rope.scaling is not None else []
    for other in others:
        changed = Transformer(replace(model.config, rope=other)).eval()
        changed.load_state_dict(model.state_dict())
        assert difference(our_logits(changed, tokens), logits) > 100 * RELATIVE
