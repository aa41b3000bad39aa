"""Other ways in which `transformers`, old and new, describes or stores the same network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.convert import read_hugging_face
from tests.parity.families import (
    CASES,
    LLAMA3,
    Case,
    Peer,
    assert_close,
    new_peer,
    our_logits,
    peer_logits,
    random_tokens,
    rewrite_config,
    write_peer,
)

TOKENS = random_tokens(40)


def check(peer: Peer, directory: Path) -> None:
    """Both programs read the same network there."""
    kind = type(peer)
    again = kind.from_pretrained(directory, dtype=torch.float32)
    assert_close(peer_logits(again, TOKENS), peer_logits(peer, TOKENS), 1e-6)
    assert_close(our_logits(read_hugging_face(directory).model, TOKENS), peer_logits(peer, TOKENS))


def rewrite_tensors(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("parameters", "described"),
    [
        ({"rope_type": "default"}, {"rope_theta": 5e4}),
        ({"rope_type": "default"}, {"rope_theta": 5e4, "rope_scaling": None}),
        (LINEAR, {"rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        (LINEAR, {"rope_theta": 5e4, "rope_parameters": LINEAR}),
        (LINEAR, {"rope_theta": 1.0, "rope_parameters": {**LINEAR, "rope_theta": 5e4}}),
        (
            {"rope_type": "llama3", **LLAMA3},
            {"rope_theta": 5e4, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        ),
        (
            LINEAR,
            {
                "rope_theta": 5e4,
                "rope_scaling": LINEAR,
                "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
            },
        ),
    ],
)
def test_rotary_positions(
    tmp_path: Path, parameters: dict[str, Any], described: dict[str, Any]
) -> None:
    """`rope_parameters` of today, `rope_theta` and `rope_scaling` of before, and mixtures."""
    rope = {"rope_parameters": {"rope_theta": 5e4, **parameters}}
    peer = new_peer(Case("llama", CASES["llama-groups"].fields | rope))
    write_peer(peer, tmp_path)
    rewrite_config(tmp_path, lambda values: values.pop("rope_parameters"))
    rewrite_config(tmp_path, lambda values: values.update(described))
    check(peer, tmp_path)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {"num_key_value_heads": None, "hidden_size": 64, "num_attention_heads": 4}),
        ("llama", {"num_key_value_heads": 2, "hidden_size": 64, "num_attention_heads": 4}),
        ("qwen2", {"num_key_value_heads": 2, "hidden_size": 64, "num_attention_heads": 4}),
        ("qwen3", {"num_key_value_heads": 1, "hidden_size": 64, "num_attention_heads": 2}),
    ],
)
def test_fields_that_are_left_to_their_defaults(
    tmp_path: Path, family: str, fields: dict[str, Any]
) -> None:
    peer = new_peer(Case(family, fields))
    write_peer(peer, tmp_path)
    defaults = {"tie_word_embeddings", "rms_norm_eps", "rope_parameters", "head_dim", "hidden_act"}
    defaults |= {"attention_bias", "mlp_bias", "layer_types", "use_sliding_window"}
    defaults |= {"num_key_value_heads"} if fields["num_key_value_heads"] is None else set()

    def without_defaults(values: dict[str, Any]) -> None:
        for name in defaults:
            values.pop(name, None)

    rewrite_config(tmp_path, without_defaults)
    check(peer, tmp_path)


@pytest.fixture
def tied(tmp_path: Path) -> tuple[Peer, Path]:
    peer = new_peer(CASES["llama-groups"])
    return peer, write_peer(peer, tmp_path)


@pytest.fixture
def untied(tmp_path: Path) -> tuple[Peer, Path]:
    peer = new_peer(CASES["llama-each-its-own"])
    return peer, write_peer(peer, tmp_path)


def test_frequencies_that_are_stored_with_the_weights(tied: tuple[Peer, Path]) -> None:
    """As buffers of older versions, which are no weights."""
    peer, directory = tied
    names = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(3)]
    rewrite_tensors(directory, lambda t: t.update({name: torch.ones(8) for name in names}))
    check(peer, directory)


def test_a_tied_head_that_is_stored_twice(tied: tuple[Peer, Path]) -> None:
    peer, directory = tied
    rewrite_tensors(
        directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    )
    assert read_hugging_face(directory).model.config.tied
    check(peer, directory)


def test_a_head_of_its_own_that_is_the_embedding(untied: tuple[Peer, Path]) -> None:
    """It is read as tied: one matrix gives the same logits, and half the memory."""
    peer, directory = untied
    peer.lm_head.weight.data.copy_(peer.model.embed_tokens.weight)
    write_peer(peer, directory)
    assert read_hugging_face(directory).model.config.tied
    check(peer, directory)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly(untied: tuple[Peer, Path], dtype: torch.dtype) -> None:
    directory = untied[1]

    def round_all(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    rewrite_tensors(directory, round_all)
    check(type(untied[0]).from_pretrained(directory, dtype=torch.float32), directory)
    stored = read_hugging_face(directory, dtype=None).model
    assert stored.dtype == dtype
    whole = read_hugging_face(directory).model.state_dict()
    for name, tensor in stored.state_dict().items():
        assert torch.equal(tensor.float(), whole[name]), name


def test_a_vocabulary_that_is_padded(tmp_path: Path) -> None:
    """The network has more rows than the tokenizer has tokens."""
    peer = new_peer(CASES["qwen2-groups"], vocab_size=320)
    write_peer(peer, tmp_path, tokens=300)
    assert read_hugging_face(tmp_path).tokenizer.vocab_size == 300
    check(peer, tmp_path)
