"""Imported weights compute what `transformers` computes with them, in fp32."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import Base, load_base
from model.convert import read_hugging_face
from tests.parity.families import (
    RELATIVE,
    assert_close,
    cached_logits,
    our_logits,
    peer_logits,
    rewrite_config,
)
from training.cli import main

PROMPTS = ([7], [5, 17, 250, 299, 0, 44], list(range(100, 130)))


@pytest.fixture(scope="module", params=["tied", "untied"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_hf: Any
) -> tuple[Any, Base]:
    """The peer and what the command made of its directory."""
    root = tmp_path_factory.mktemp(request.param)
    peer = write_hf(root / "hf", tie_word_embeddings=request.param == "tied")
    assert main(["import", str(root / "hf"), "--out", str(root / "base")]) == 0
    base = load_base(root / "base")
    assert base.config.tied == (request.param == "tied")
    return peer, base


@pytest.mark.parametrize("tokens", PROMPTS, ids=len)
def test_logits(pair: tuple[Any, Base], tokens: list[int]) -> None:
    peer, base = pair
    assert_close(our_logits(base.model, tokens), peer_logits(peer, tokens))


def test_logits_of_a_full_context(pair: tuple[Any, Base]) -> None:
    peer, base = pair
    tokens = [(7 * i * i + 3) % 300 for i in range(base.config.context_length)]
    assert_close(our_logits(base.model, tokens), peer_logits(peer, tokens))


@pytest.mark.parametrize("tokens", PROMPTS, ids=len)
def test_greedy_continuations(pair: tuple[Any, Base], tokens: list[int]) -> None:
    peer, base = pair
    prompt = torch.tensor([tokens])
    theirs = peer.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False
    )[0].tolist()
    assert len(theirs) == len(tokens) + 64
    logits = peer_logits(peer, theirs)
    gaps = logits.topk(2).values.diff(dim=-1).abs()[len(tokens) - 1 : -1]
    assert gaps.min() > RELATIVE * logits.abs().max(), "a tie here would leave nothing to compare"
    ours = list(tokens)
    for _ in range(64):
        ours.append(int(our_logits(base.model, ours)[-1].argmax()))
    assert ours == theirs


@pytest.mark.parametrize(
    "chunks", [[30], [1, 29], [11, 1, 1, 12, 5], [1] * 30], ids=["whole", "1+29", "mixed", "single"]
)
def test_cached_equals_uncached(pair: tuple[Any, Base], chunks: list[int]) -> None:
    _, base = pair
    tokens = PROMPTS[2]
    [cached] = cached_logits(base.model, [tokens], [[n] for n in chunks])
    assert_close(cached, our_logits(base.model, tokens))


def test_a_flat_batch_equals_each_sequence_alone(pair: tuple[Any, Base]) -> None:
    """Sequences join and leave between steps; prefill, chunks and decoding share a step."""
    peer, base = pair
    sequences = [PROMPTS[2], PROMPTS[1], list(range(40, 60))]
    steps = [[10, 0, 0], [5, 6, 1], [1, 0, 1], [14, 0, 18]]
    together = cached_logits(base.model, sequences, steps)
    for tokens, logits in zip(sequences, together, strict=True):
        assert_close(logits, peer_logits(peer, tokens))


def test_the_shape_of_gpt2_124m(tmp_path: Path, write_hf: Any) -> None:
    peer = write_hf(tmp_path, vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
    imported = read_hugging_face(tmp_path)
    assert imported.model.parameter_count() == 124_439_808
    assert imported.tokenizer.end_token == 50256
    tokens = [15496, 11, 314, 716]
    assert_close(our_logits(imported.model, tokens), peer_logits(peer, tokens))


def _rewrite(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
@torch.no_grad()
def test_the_epsilon_of_layer_norm(tmp_path: Path, write_hf: Any, epsilon: float) -> None:
    """Embeddings so small that the first layer norm divides by its epsilon more than by them."""
    peer = write_hf(tmp_path, n_layer=1, layer_norm_epsilon=epsilon)
    peer.transformer.wte.weight.mul_(1e-3)
    peer.transformer.wpe.weight.mul_(1e-3)
    peer.save_pretrained(tmp_path)
    ours = our_logits(read_hugging_face(tmp_path).model, PROMPTS[1])
    theirs = peer_logits(peer, PROMPTS[1])
    assert (ours - theirs).abs().max() <= RELATIVE * theirs.abs().max()


class TestLayouts:
    """Other ways in which the same model is stored."""

    @pytest.fixture
    def hf(self, tmp_path: Path, write_hf: Any) -> tuple[Any, Path]:
        return write_hf(tmp_path / "hf"), tmp_path / "hf"

    def check(self, hf: tuple[Any, Path]) -> None:
        model = read_hugging_face(hf[1]).model
        assert model.config.tied
        assert_close(our_logits(model, PROMPTS[1]), peer_logits(hf[0], PROMPTS[1]))

    def test_openai_names_without_prefix_and_with_mask_buffers(self, hf: tuple[Any, Path]) -> None:
        def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            out = {name.removeprefix("transformer."): t for name, t in tensors.items()}
            for layer in range(3):
                out[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 96, 96).tril()
                out[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
            return out

        _rewrite(hf[1], change)
        self.check(hf)

    def test_a_tied_head_that_is_stored_twice(self, hf: tuple[Any, Path]) -> None:
        _rewrite(hf[1], lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}))
        self.check(hf)

    def test_another_width_of_the_mlp(self, tmp_path: Path, write_hf: Any) -> None:
        peer = write_hf(tmp_path / "wide", n_inner=100)
        self.check((peer, tmp_path / "wide"))

    def test_shards(self, hf: tuple[Any, Path]) -> None:
        hf[0].save_pretrained(hf[1], max_shard_size="200KB")
        (hf[1] / "model.safetensors").unlink(missing_ok=True)
        assert len(list(hf[1].glob("model-*.safetensors"))) > 1
        self.check(hf)
        imported = read_hugging_face(hf[1])
        assert sum(name.startswith("model-") for name in imported.files) > 1

    def test_bf16_weights_are_read_exactly(self, hf: tuple[Any, Path]) -> None:
        hf[0].to(torch.bfloat16).save_pretrained(hf[1])
        hf[0].float()
        self.check(hf)

    def test_bf16_checkpoint_is_rounded_and_half_as_large(self, hf: tuple[Any, Path]) -> None:
        out = hf[1].parent / "base"
        assert main(["import", str(hf[1]), "--out", str(out), "--dtype", "bf16"]) == 0
        stored = load_file(out / "model.safetensors")
        assert {t.dtype for t in stored.values()} == {torch.bfloat16}
        exact = read_hugging_face(hf[1]).model.state_dict()
        for name, tensor in load_base(out).model.state_dict().items():
            assert torch.equal(tensor, exact[name].bfloat16().float())

    def test_the_card_names_the_files(self, hf: tuple[Any, Path]) -> None:
        out = hf[1].parent / "base"
        assert main(["import", str(hf[1]), "--out", str(out)]) == 0
        source = load_base(out).card["source"]
        assert source["name"] == "hf"
        assert source["files"].keys() == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "vocab.json",
            "merges.txt",
        }


class TestRefusals:
    """What is not GPT-2, or not whole, ends in one line that names it; nothing is written."""

    @pytest.fixture
    def hf(self, tmp_path: Path, write_hf: Any) -> Path:
        write_hf(tmp_path / "hf", n_layer=1, n_embd=32, n_positions=16)
        return tmp_path / "hf"

    def refuse(self, hf: Path, capsys: pytest.CaptureFixture[str], *said: str) -> None:
        out = hf.parent / "base"
        assert main(["import", str(hf), "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        for words in said:
            assert words in error
        assert not out.exists()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("activation_function", "relu"),
            ("scale_attn_by_inverse_layer_idx", True),
            ("scale_attn_weights", False),
            ("reorder_and_upcast_attn", True),
            ("add_cross_attention", True),
            ("model_type", "mistral"),
            ("n_head", 5),
            ("vocab_size", 299),
            ("eos_token_id", 3),
        ],
    )
    def test_configurations(
        self, hf: Path, capsys: pytest.CaptureFixture[str], field: str, value: object
    ) -> None:
        rewrite_config(hf, lambda values: values.update({field: value}))
        self.refuse(hf, capsys, "config.json", field, str(value))

    def test_a_width_that_the_tensors_have_not(
        self, hf: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rewrite_config(hf, lambda values: values.update(n_inner=100))
        self.refuse(hf, capsys, "model.safetensors", "h.0.mlp.c_fc.weight", "(100, 32)")

    def test_another_family_by_name_alone(
        self, hf: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rewrite_config(hf, lambda values: values.update(model_type="llama"))
        self.refuse(hf, capsys, "config.json", "max_position_embeddings")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: t.pop("transformer.h.0.mlp.c_fc.bias"), "h.0.mlp.c_fc.bias"),
            (lambda t: t.pop("transformer.wte.weight"), "wte.weight"),
            (lambda t: t.update(extra=torch.zeros(2)), "extra"),
            (lambda t: t.update({"transformer.h.1.ln_1.bias": torch.zeros(32)}), "h.1.ln_1.bias"),
            (lambda t: t.update({"transformer.wpe.weight": torch.zeros(15, 32)}), "(15, 32)"),
            (lambda t: t.update({"transformer.wte.weight": torch.zeros(301, 32)}), "(301, 32)"),
            (
                # As a linear layer has it, not as Conv1D: of the right size, but turned.
                lambda t: t.update({"transformer.h.0.mlp.c_fc.weight": torch.zeros(128, 32)}),
                "(128, 32)",
            ),
            (lambda t: t.update({"transformer.wpe.weight": torch.zeros(16, 32).int()}), "int32"),
            (lambda t: t.update({"score.weight": torch.zeros(2, 32)}), "ForSequenceClassification"),
            (lambda t: t.update({"lm_head.weight": torch.zeros(300, 32)}), "tie_word_embeddings"),
            (lambda t: t.update({"wte.weight": torch.zeros(300, 32)}), "twice"),
        ],
    )
    def test_tensors(
        self, hf: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str
    ) -> None:
        def only_change(tensors: dict[str, Tensor]) -> None:
            change(tensors)

        _rewrite(hf, only_change)
        self.refuse(hf, capsys, "model.safetensors", said)

    def test_an_untied_head_that_is_missing(
        self, hf: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rewrite_config(hf, lambda values: values.update(tie_word_embeddings=False))
        self.refuse(hf, capsys, "lm_head.weight", "tie_word_embeddings")

    def test_a_truncated_file(self, hf: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = hf / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        self.refuse(hf, capsys, "model.safetensors")

    def test_a_pickle(self, hf: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (hf / "model.safetensors").rename(hf / "pytorch_model.bin")
        self.refuse(hf, capsys, "pickle", "safetensors")

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merges.txt"])
    def test_missing_files(self, hf: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
        (hf / name).unlink()
        self.refuse(hf, capsys, name)

    def test_a_shard_outside_the_directory(
        self, hf: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.move(hf / "model.safetensors", hf.parent / "model.safetensors")
        index = {"weight_map": {"transformer.wte.weight": "../model.safetensors"}}
        (hf / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refuse(hf, capsys, "index.json")

    def test_a_missing_shard(self, hf: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (hf / "model.safetensors").unlink()
        index = {"weight_map": {"transformer.wte.weight": "model-1.safetensors"}}
        (hf / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refuse(hf, capsys, "model-1.safetensors")

    def test_a_source_that_is_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["import", "gpt3", "--out", str(tmp_path / "base")]) == 2
        assert "gpt2-medium" in capsys.readouterr().err

    def test_publishing_over_the_source(self, hf: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["import", str(hf), "--out", str(hf)]) == 2
        assert "--out" in capsys.readouterr().err
        assert (hf / "vocab.json").is_file()

    def test_the_hub_out_of_reach(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        assert main(["import", "gpt2", "--out", str(tmp_path / "base")]) == 1
        error = capsys.readouterr().err
        assert "openai-community/gpt2" in error
        assert error.count("\n") == 1

    def test_the_hub_from_its_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_hf: Any
    ) -> None:
        """Offline, with the files where an earlier download put them."""
        hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
        repository = tmp_path / "models--openai-community--gpt2"
        write_hf(repository / "snapshots" / "abc123", n_layer=1, n_embd=32)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc123")
        assert main(["import", "gpt2-124m", "--out", str(tmp_path / "base")]) == 0
        card = load_base(tmp_path / "base").card
        assert card["source"]["name"] == "openai-community/gpt2@abc123"
        assert "MIT" in card["licences"][0]

    def test_the_hub_package_is_not_there(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
        assert main(["import", "gpt2", "--out", str(tmp_path / "base")]) == 2
        assert "huggingface_hub" in capsys.readouterr().err
