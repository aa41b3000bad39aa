"""GGUF files of all families compute what `transformers` computes with their weights."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from model.checkpoint import load_base
from model.convert.gguf_read import read_gguf
from model.transformer import Transformer
from tests.parity.families import (
    CASES,
    CONTEXT,
    ONE_OF_EACH,
    WIDE,
    Case,
    assert_close,
    best_tokens,
    difference,
    greedy,
    new_peer,
    our_logits,
    peer_logits,
    random_tokens,
)
from tests.parity.gguf_files import write_gguf

TOKENS = random_tokens(100)
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
K_KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FILES = [name for name in CASES if name != "qwen3-one-key-head"]
"""In GGUF, only Llama's frequencies can be scaled as those of Llama 3."""


@pytest.mark.parametrize("name", FILES)
def test_logits(name: str, tmp_path: Path) -> None:
    """In fp32, over the whole context; heads, widths and positions are those of the file."""
    peer = new_peer(CASES[name])
    base = load_base(write_gguf(tmp_path / "x.gguf", peer))
    assert base.config.tied == peer.config.tie_word_embeddings
    assert base.config.context_length == CONTEXT
    assert base.config.parameter_count() == peer.num_parameters()
    tokens = random_tokens(CONTEXT)
    assert_close(our_logits(base.model, tokens), peer_logits(peer, tokens))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_logits_of_quantized_weights(name: str, kind: str, tmp_path: Path) -> None:
    """The file mixes kinds: not all rows can be divided into blocks."""
    peer = new_peer(CASES[name])
    before = peer_logits(peer, TOKENS)
    path = write_gguf(tmp_path / "x.gguf", peer, kind)
    theirs = peer_logits(peer, TOKENS)
    assert_close(our_logits(read_gguf(path).model, TOKENS), theirs)
    assert (difference(before, theirs) > 1e-4) == (kind != "F32"), "it must be seen what is stored"


@pytest.mark.parametrize("kind", K_KINDS)
def test_logits_of_k_quants(kind: str, tmp_path: Path) -> None:
    peer = new_peer(WIDE)
    path = write_gguf(tmp_path / "x.gguf", peer, kind, head="Q8_0")
    assert {t.tensor_type.name for t in gguf.GGUFReader(path).tensors} == {"F32", kind, "Q8_0"}
    assert_close(our_logits(read_gguf(path).model, TOKENS), peer_logits(peer, TOKENS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_that_is_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", new_peer(WIDE), "Q4_0")
    whole = read_gguf(path).model.state_dict()
    for name, tensor in load_base(path, dtype=dtype).model.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, whole[name].to(dtype)), name


class TestHead:
    """A tied head is left out, or stored once more; another one is a matrix of its own."""

    @pytest.mark.parametrize("kind", ["F32", "Q4_0"])
    def test_stored_twice(self, kind: str, tmp_path: Path) -> None:
        peer = new_peer(CASES["qwen2-groups"])
        model = read_gguf(write_gguf(tmp_path / "x.gguf", peer, kind, head=kind)).model
        assert model.config.tied
        assert_close(our_logits(model, TOKENS), peer_logits(peer, TOKENS))

    def test_stored_more_exactly(self, tmp_path: Path) -> None:
        """It is no longer the embedding, and none of the two is lost."""
        peer = new_peer(CASES["llama-each-its-own"])
        peer.lm_head.weight.data.copy_(peer.model.embed_tokens.weight)
        model = read_gguf(write_gguf(tmp_path / "x.gguf", peer, "Q4_0", head="Q8_0")).model
        assert not model.config.tied
        assert not torch.equal(model.output_weight, model.embedding.weight)
        assert_close(our_logits(model, TOKENS), peer_logits(peer, TOKENS))

    def test_of_its_own(self, tmp_path: Path) -> None:
        peer = new_peer(CASES["llama-each-its-own"])
        model = read_gguf(write_gguf(tmp_path / "x.gguf", peer, "Q8_0")).model
        assert not model.config.tied
        assert_close(our_logits(model, TOKENS), peer_logits(peer, TOKENS))


class TestPositions:
    def read(self, tmp_path: Path, case: str, change: Any) -> Transformer:
        path = write_gguf(tmp_path / "x.gguf", new_peer(CASES[case]), change=change)
        return read_gguf(path).model

    def same(self, one: Transformer, case: str) -> bool:
        peer = new_peer(CASES[case])
        return difference(our_logits(one, TOKENS), peer_logits(peer, TOKENS)) < 1e-4

    @pytest.mark.parametrize(
        "fields",
        [
            {"rope.scaling.factor": 4.0},
            {"rope.scale_linear": 4.0},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "rope.scale_linear": 2.0},
        ],
        ids=str,
    )
    def test_linear_scaling(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        """A factor alone means it, too, as it does in llama.cpp."""
        model = self.read(tmp_path, "llama-groups", lambda w: replace_scaling(w, fields))
        assert self.same(model, "llama-groups")

    @pytest.mark.parametrize(
        "fields",
        [{}, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {"rope.scale_linear": 0.0}],
        ids=str,
    )
    def test_no_scaling(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        model = self.read(tmp_path, "llama-groups", lambda w: replace_scaling(w, fields))
        assert model.config.rope is not None
        assert model.config.rope.scaling is None
        assert not self.same(model, "llama-groups")

    def test_what_is_left_out_has_llama_cpps_default(self, tmp_path: Path) -> None:
        def drop(writer: Any) -> None:
            for name in ("attention.key_length", "attention.value_length", "rope.freq_base"):
                writer.kv_data[0].pop(f"llama.{name}")
            for name in ("rope.dimension_count", "attention.head_count_kv"):
                writer.kv_data[0].pop(f"llama.{name}")

        peer = new_peer(Case("llama", {"hidden_size": 64, "num_attention_heads": 4}))
        path = write_gguf(tmp_path / "x.gguf", peer, change=drop)
        assert_close(our_logits(read_gguf(path).model, TOKENS), peer_logits(peer, TOKENS))


def replace_scaling(writer: Any, fields: dict[str, Any]) -> None:
    pairs = writer.kv_data[0]
    for name in [name for name in pairs if "rope.scal" in name]:
        del pairs[name]
    for name, value in fields.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"llama.{name}", value)


def test_end_tokens(tmp_path: Path) -> None:
    """All that the file names end a text."""
    path = write_gguf(tmp_path / "x.gguf", new_peer(CASES["llama-groups"]))
    base = load_base(path)
    assert base.stop_tokens == (297, 299)
    assert base.tokenizer.special.end_of_turn == 299

    def name_more(writer: Any) -> None:
        writer.add_eot_token_id(298)

    path = write_gguf(tmp_path / "y.gguf", new_peer(CASES["llama-groups"]), change=name_more)
    assert load_base(path).stop_tokens == (297, 298, 299)


@pytest.mark.parametrize("name", FILES)
def test_the_greedy_text_of_llama_cpp(llama_cpp: Any, name: str, tmp_path: Path) -> None:
    """Its tokens are ours, wherever there is no tie; keys and values are in fp32 there, too."""
    path = write_gguf(tmp_path / "x.gguf", new_peer(CASES[name]))
    model = load_base(path).model
    f32 = int(gguf.GGMLQuantizationType.F32)
    threads = {"n_threads": 1, "n_threads_batch": 1}
    llama = llama_cpp.Llama(str(path), n_ctx=256, type_k=f32, type_v=f32, verbose=False, **threads)
    compared = 0
    for length in (1, 7, 30, 120):
        prompt = random_tokens(length, length)
        found = greedy(llama, prompt, 40)
        best, clear = best_tokens(our_logits(model, prompt + found[:-1])[length - 1 :])
        assert torch.equal(torch.tensor(found)[clear], best[clear])
        compared += int(clear.sum())
    llama.close()
    assert compared >= 120
