"""GGUF files hold what they say, and read back as they were written."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import Base, load_base, save_base
from model.convert.bpe_files import merges
from model.convert.gguf_read import read_gguf
from model.convert.gguf_tokenizer import check_pattern
from model.convert.gguf_write import write_gguf
from model.errors import UsageError
from model.tokenizer import GPT2_PATTERN, PATTERN, Tokenizer
from model.transformer import Transformer
from tests.e2e.server import SCRATCH
from training.cli import main

TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}


def tokenizer_of(*tokens: bytes, pattern: str = PATTERN) -> Tokenizer:
    """Bytes, then `tokens`, then the end token."""
    ranks = {bytes([i]): i for i in range(256)} | {t: 256 + i for i, t in enumerate(tokens)}
    return Tokenizer(ranks, pattern, {"<|endoftext|>": len(ranks)})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A network in fp32 with one token more than its tokenizer has."""
    tokenizer = tokenizer_of(b"th", b"the", b" the", b" 1", "é".encode())
    model = Transformer(Architecture(tokenizer.vocab_size + 1, 32, n_layer=2, n_head=2, n_embd=64))
    model.init_weights(torch.Generator().manual_seed(2))
    path = tmp_path_factory.mktemp("gguf") / "small"
    return save_base(path, model.eval(), tokenizer, card={}, dtype=torch.float32)


def export(base: Base, out: Path, dtype: str = "fp32") -> None:
    words = ["--format", "gguf", "--out", str(out), "--dtype", dtype]
    assert main(["export", str(base.path), *words]) == 0


def write_changed(path: Path, base: Base, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export `base`, with what `change` does to the writer."""
    finish = gguf.GGUFWriter.write_header_to_file

    def changed(writer: Any) -> None:
        pairs = writer.kv_data[0]
        known = dict(pairs)
        pairs.clear()  # a second value for a key is refused
        change(writer)
        pairs.update({**known, **pairs})
        finish(writer)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", changed)
    write_gguf(path, base, "fp32")


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_and_fields(small: Base, tmp_path: Path, dtype: str) -> None:
    """As GGUF's own reader sees them."""
    export(small, tmp_path / "x.gguf", dtype)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "gpt2"
    assert fields["gpt2.block_count"] == 2
    assert fields["gpt2.context_length"] == 32
    assert fields["gpt2.attention.head_count"] == 2
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.merges"] == ["t h", "th e", "Ġ the", "Ġ 1", "Ã ©"]
    assert fields["tokenizer.ggml.eos_token_id"] == 261
    assert fields["tokenizer.ggml.tokens"][256:] == [
        *("th", "the", "Ġthe", "Ġ1", "Ã©", "<|endoftext|>", "[PAD0]")
    ]
    assert fields["tokenizer.ggml.token_type"][260:] == [1, 3, 5]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == len(small.model.state_dict())
    assert "output.weight" not in tensors  # the head is the embedding
    weights = small.model.state_dict()
    for theirs, ours in {
        "token_embd.weight": "embedding.weight",
        "position_embd.weight": "positions.weight",
        "blk.1.attn_qkv.weight": "blocks.1.attention.qkv.weight",
        "blk.0.ffn_down.weight": "blocks.0.mlp.down.weight",
        "blk.0.ffn_up.bias": "blocks.0.mlp.up.bias",
        "output_norm.weight": "norm.weight",
    }.items():
        tensor, wanted = tensors[theirs], weights[ours]
        assert [int(n) for n in tensor.shape] == list(wanted.shape)[::-1]
        matrix = wanted.ndim == 2 and theirs != "position_embd.weight"
        assert tensor.tensor_type.name == (TYPES[dtype] if matrix else "F32")
        got = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).view(wanted.shape)
        # Half a step: of 8 bits in each block's range, or of the mantissa.
        step = {"F32": 0.0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 250}
        assert (got - wanted).abs().max() <= step[tensor.tensor_type.name] * wanted.abs().max()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_round_trip(small: Base, tmp_path: Path, dtype: str) -> None:
    export(small, tmp_path / "x.gguf", dtype)
    words = ["import", str(tmp_path / "x.gguf"), "--out", str(tmp_path / "back")]
    assert main(words) == 0
    back = load_base(tmp_path / "back")
    assert back.config == small.config
    assert back.tokenizer.sha256 == small.tokenizer.sha256
    rounding = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
    for name, tensor in small.model.state_dict().items():
        wanted = tensor
        if dtype in rounding and tensor.ndim == 2 and name != "positions.weight":
            wanted = tensor.to(rounding[dtype]).float()
        if dtype == "q8_0":
            assert (back.model.state_dict()[name] - wanted).abs().max() < 1e-3
        else:
            assert torch.equal(back.model.state_dict()[name], wanted), name


def test_another_epsilon(small: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gguf"
    write_changed(path, small, lambda writer: writer.add_layer_norm_eps(1e-3), monkeypatch)
    assert load_base(path).config == replace(small.config, norm_eps=1e-3)


def test_an_instruction_follower(tmp_path: Path) -> None:
    """The one from scratch: its adapter is merged, and the template goes with it."""
    out = tmp_path / "instruct.gguf"
    words = ["export", str(SCRATCH / "instruct"), "--format", "gguf", "--out", str(out)]
    assert main([*words, "--dtype", "q8_0"]) == 0
    fields = gguf.GGUFReader(out).fields
    assert "### Response:" in fields["tokenizer.chat_template"].contents()
    assert read_gguf(out).task == "instruct"
    assert out.stat().st_size < 0.3 * 4 * load_base(SCRATCH / "base").model.parameter_count() + 1e6


class TestPatterns:
    """Which vocabularies GPT-2's way of cutting text leaves alone."""

    def test_single_digits(self) -> None:
        check_pattern(
            tokenizer_of(b" 1", b"ab", "½".encode(), " ½".encode(), "½".encode()[:1] + b"a")
        )

    @pytest.mark.parametrize(
        "token", [b"12", b" 12", b"9\xc2", "½".encode()[1:] + b"\xc2", "²3".encode()], ids=repr
    )
    def test_tokens_across_digits(self, token: bytes) -> None:
        with pytest.raises(UsageError, match="--format gguf"):
            check_pattern(tokenizer_of(token))
        check_pattern(tokenizer_of(token, pattern=GPT2_PATTERN))

    def test_another_pattern(self) -> None:
        with pytest.raises(UsageError, match="no name"):
            check_pattern(tokenizer_of(pattern=r"\w+|\W+"))

    def test_our_own_vocabulary_is_cut_the_same(self) -> None:
        """The claim itself: with GPT-2's pattern, texts of digits get the same tokens."""
        ours = load_base(SCRATCH / "base").tokenizer
        assert ours.pattern == PATTERN
        theirs = Tokenizer(ours.ranks, GPT2_PATTERN, ours.special_tokens)
        numerals = "0179½²٣४Ⅷ〇௧𝟘"
        for text in itertools.product(numerals + " a'-", repeat=3):
            assert ours.encode("".join(text)) == theirs.encode("".join(text))
        check_pattern(ours)


def test_a_token_that_no_merge_makes() -> None:
    with pytest.raises(UsageError, match="made by no pair"):
        merges(tokenizer_of(b"abc"))


class TestRefusals:
    def refuse(self, capsys: Any, code: int, *words: object) -> str:
        capsys.readouterr()
        assert main([*map(str, words)]) == code
        error: str = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    def test_a_width_that_no_block_divides(self, tmp_path: Path, capsys: Any) -> None:
        tokenizer = tokenizer_of()
        model = Transformer(Architecture(tokenizer.vocab_size, 16, n_layer=1, n_head=2, n_embd=48))
        model.init_weights(torch.Generator())
        save_base(tmp_path / "base", model.eval(), tokenizer, card={})
        words = ("export", tmp_path / "base", "--format", "gguf", "--out", tmp_path / "x.gguf")
        error = self.refuse(capsys, 2, *words, "--dtype", "q8_0")
        assert "n_embd is 48" in error
        assert not (tmp_path / "x.gguf").exists()

    @pytest.mark.parametrize("damage", ["cut short", "no GGUF at all"])
    def test_broken_files(self, small: Base, tmp_path: Path, capsys: Any, damage: str) -> None:
        path = tmp_path / "x.gguf"
        export(small, path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"x" * 1000)
        error = self.refuse(capsys, 1, "import", path, "--out", tmp_path / "out")
        assert "x.gguf" in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda w: w.add_string("general.architecture", "mamba"),
                "general.architecture is 'mamba'",
            ),
            (
                lambda w: w.add_string("general.architecture", "llama"),
                "llama.attention.head_count",
            ),
            (lambda w: w.add_tokenizer_pre("qwen2"), "tokenizer.ggml.pre is 'qwen2'"),
            (lambda w: w.add_layer_norm_eps(2.0), "layer_norm_epsilon"),
            (lambda w: w.add_head_count(7), "attention.head_count is 7"),
            (lambda w: w.tensors[0].pop("blk.0.ffn_up.bias"), "blk.0.ffn_up.bias"),
            (lambda w: w.add_tensor("rope.weight", torch.zeros(2).numpy()), "rope.weight"),
        ],
    )
    def test_other_networks(
        self,
        small: Base,
        tmp_path: Path,
        capsys: Any,
        monkeypatch: pytest.MonkeyPatch,
        change: Any,
        said: str,
    ) -> None:
        """Files as somebody else could write them."""
        write_changed(tmp_path / "x.gguf", small, change, monkeypatch)
        error = self.refuse(capsys, 1, "import", tmp_path / "x.gguf", "--out", tmp_path / "out")
        assert said in error
