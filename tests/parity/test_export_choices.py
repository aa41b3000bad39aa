"""Which choices are exported as which family, what is refused, and files with byte order marks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from model.architecture import Architecture, preset
from model.checkpoint import Base, load_base, save_adapter, save_base
from model.classifier import ClassifierHead, Labels
from model.convert.families import FAMILIES, family_of
from model.errors import UsageError
from model.lora import LoRA, LoRASettings
from model.rope import DivisorScaling, LinearScaling, Llama3Scaling, Rope
from model.tokenizer import PATTERN, Tokenizer
from model.transformer import Transformer
from tests.parity.exported import export, new_base
from tests.parity.families import assert_close, our_logits, peer_logits, random_tokens
from training.cli import main

BYTES = Tokenizer({bytes([i]): i for i in range(256)}, PATTERN, {"<|endoftext|>": 256})
GPT2 = Architecture(257, 512, n_layer=1, n_head=2, n_embd=32)
LLAMA = replace(GPT2, norm="rms", mlp="swiglu", bias="none", rope=Rope(), n_kv_head=1, mlp_width=64)
LLAMA31 = Llama3Scaling(8.0, 1.0, 4.0, 8192)


def new_checkpoint(path: Path, config: Architecture, **more: Any) -> Base:
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 8 if parameter.ndim == 2 else 1
    return save_base(path, model.eval(), BYTES, card={}, dtype=torch.float32, **more)


class TestFamily:
    @pytest.mark.parametrize(
        ("name", "family"),
        [
            ("gpt2-124m", "gpt2"),
            ("small", "gpt2"),
            ("smollm2-135m", "llama"),
            ("llama-3.2-1b", "llama"),
            ("qwen2.5-0.5b", "qwen2"),
            ("qwen3-0.6b", "qwen3"),
            ("small-modern", "qwen3"),  # Llama's choices, and norms of queries and keys
        ],
    )
    def test_of_the_presets(self, name: str, family: str) -> None:
        assert family_of(preset(name), "--format hf") == family

    def test_our_own_is_qwen3s_in_transformers(self, tmp_path: Path) -> None:
        shape = {"vocab_size": 257, "n_layer": 1, "n_embd": 64, "n_head": 2, "n_kv_head": 2}
        config = replace(preset("small-modern"), **shape, head_dim=32, mlp_width=96)  # type: ignore[arg-type]
        base = new_checkpoint(tmp_path / "base", config)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            export(tmp_path / "base", tmp_path / "hf", "hf")
        )
        assert isinstance(theirs, transformers.Qwen3ForCausalLM)
        tokens = random_tokens(60, 1)
        tokens = [token % 257 for token in tokens]
        assert_close(our_logits(base.model, tokens), peer_logits(theirs, tokens))

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (replace(LLAMA, mlp="gelu"), "of the nearest, llama, it differs: mlp is 'gelu'"),
            (replace(LLAMA, norm="layer"), "llama, it differs: norm is 'layer', not 'rms'"),
            (replace(LLAMA, rope=None), "llama, it differs: its positions are learned"),
            (replace(LLAMA, bias="all"), "llama, it differs: bias is 'all', not 'none'"),
            (replace(LLAMA, bias="qkv", qk_norm=True), "qwen2, it differs: qk_norm is True"),
            (replace(GPT2, rope=Rope()), "gpt2, it differs: its positions are rotary"),
            (replace(GPT2, qk_norm=True), "gpt2, it differs: qk_norm is True, not False"),
            (replace(GPT2, n_kv_head=1), "gpt2, it differs: n_kv_head is 1 and head_dim 16"),
            (replace(GPT2, head_dim=8), "gpt2, it differs: n_kv_head is 2 and head_dim 8"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_mixture_is_refused(
        self, config: Architecture, said: str, tmp_path: Path, capsys: Any
    ) -> None:
        new_checkpoint(tmp_path / "base", config)
        for kind in ("hf", "gguf"):
            out = ("--format", kind, "--out", str(tmp_path / "out"))
            assert main(["export", str(tmp_path / "base"), *out]) == 2
            error = capsys.readouterr().err
            assert f"--format {kind}: no family has this network's choices" in error
            assert said in error
            assert not (tmp_path / "out").exists()

    def test_a_mixture_takes_no_adapter_of_peft(self, tmp_path: Path, capsys: Any) -> None:
        base = new_checkpoint(tmp_path / "base", replace(LLAMA, mlp="gelu"))
        lora = LoRA(base.config, LoRASettings(rank=2))
        save_adapter(tmp_path / "lora", base, task="generate", lora=lora, head=None, card={})
        out = ("--format", "peft", "--out", str(tmp_path / "out"))
        assert main(["export", str(tmp_path / "lora"), *out]) == 2
        assert "--format peft: no family has" in capsys.readouterr().err

    def test_reading_and_writing_have_one_table(self) -> None:
        """Of choices: each family's own are found as that family and as no other."""
        for name, family in FAMILIES.items():
            rope = Rope() if family.rotary else None
            config = replace(GPT2, rope=rope, **family.choices)
            assert family_of(config, "here") == name
            others = [other for other in FAMILIES if other != name]
            assert all(list(FAMILIES[other].differences(config)) for other in others)


class TestPositions:
    """Divisors, as GGUF has them, and Llama 3's parameters, as config.json has them."""

    def export(self, tmp_path: Path, config: Architecture, kind: str) -> Path:
        new_checkpoint(tmp_path / "base", config)
        return export(tmp_path / "base", tmp_path / kind, kind)

    def test_there_and_back(self, tmp_path: Path) -> None:
        """From Llama 3.1's parameters to divisors, and from them to the parameters again."""
        config = replace(LLAMA, rope=Rope(500_000.0, LLAMA31))
        path = self.export(tmp_path, config, "gguf")
        assert main(["import", str(path), "--out", str(tmp_path / "back")]) == 0
        found = load_base(tmp_path / "back").config.rope
        assert found is not None
        assert isinstance(found.scaling, DivisorScaling)
        again = export(tmp_path / "back", tmp_path / "hf", "hf")
        assert load_base(again).config == config
        written = json.loads((again / "config.json").read_text())
        assert written["rope_theta"] == 500_000.0
        assert written["rope_scaling"] == {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }

    def test_other_divisors(self, tmp_path: Path, capsys: Any) -> None:
        divisors = DivisorScaling(tuple(float(i) for i in range(1, 9)))
        new_checkpoint(tmp_path / "base", replace(LLAMA, rope=Rope(1e4, divisors)))
        export(tmp_path / "base", tmp_path / "gguf", "gguf")
        out = ("--format", "hf", "--out", str(tmp_path / "hf"))
        assert main(["export", str(tmp_path / "base"), *out]) == 2
        error = capsys.readouterr().err
        assert "rope.scaling has divisors" in error
        assert not (tmp_path / "hf").exists()

    @pytest.mark.parametrize("scaling", [LLAMA31, LinearScaling(4.0)])
    def test_qwen3(self, scaling: Any, tmp_path: Path, capsys: Any) -> None:
        """llama.cpp knows divisors for Llama alone."""
        config = replace(LLAMA, qk_norm=True, rope=Rope(1e4, scaling))
        assert load_base(self.export(tmp_path, config, "hf")).config == config
        out = ("--format", "gguf", "--out", str(tmp_path / "gguf"))
        code = main(["export", str(tmp_path / "base"), *out])
        if isinstance(scaling, LinearScaling):
            assert code == 0
            assert load_base(tmp_path / "gguf").config == config
        else:
            assert code == 2
            assert "rope.scaling is llama3; llama.cpp reads rope_freqs" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["hf", "peft"])
def test_a_bias_that_no_norm_can_take(kind: str, tmp_path: Path, capsys: Any) -> None:
    base = new_checkpoint(tmp_path / "base", LLAMA)
    head = ClassifierHead(LLAMA.n_embd, Labels(("a", "b")))  # with a bias, as all had once
    lora = LoRA(base.config, LoRASettings(rank=2))
    save_adapter(tmp_path / "lora", base, task="classify", lora=lora, head=head, card={})
    out = ("--format", kind, "--out", str(tmp_path / "out"))
    assert main(["export", str(tmp_path / "lora"), *out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--format {kind}: the classification head has a bias" in error
    assert "the network is llama, whose last norm has no bias that could take" in error


@pytest.mark.parametrize(
    ("change", "said"),
    [({"mlp_width": 72}, "mlp_width is 72"), ({"head_dim": 8}, "n_head × head_dim is 16")],
)
def test_widths_that_no_block_divides(
    change: dict[str, int], said: str, tmp_path: Path, capsys: Any
) -> None:
    new_checkpoint(tmp_path / "base", replace(LLAMA, **change))  # type: ignore[arg-type]
    out = ("--format", "gguf", "--dtype", "q8_0", "--out", str(tmp_path / "x.gguf"))
    assert main(["export", str(tmp_path / "base"), *out]) == 2
    assert said in capsys.readouterr().err


class TestByteOrderMarks:
    def marked(self, source: Path, out: Path) -> Path:
        """A copy in which each text begins with a byte order mark."""
        shutil.copytree(source, out)
        count = 0
        for path in out.iterdir():
            if path.suffix in (".json", ".jinja", ".txt"):
                path.write_bytes("\ufeff".encode() + path.read_bytes())
                count += 1
        assert count >= 2
        return out

    def test_hugging_face(self, tmp_path: Path) -> None:
        _, base = new_base(tmp_path, "llama-groups")
        hf = export(base.path, tmp_path / "hf", "hf")
        settings = json.loads((hf / "tokenizer_config.json").read_text())
        (hf / "chat_template.jinja").write_text(settings.pop("chat_template"))
        (hf / "tokenizer_config.json").write_text(json.dumps(settings))
        back = load_base(self.marked(hf, tmp_path / "marked"))
        assert back.config == base.config
        assert back.template == base.template
        assert back.tokenizer.sha256 == base.tokenizer.sha256

    def test_two_files_and_shards(self, tmp_path: Path) -> None:
        peer, _ = new_base(tmp_path, "qwen3-groups")
        peer.save_pretrained(tmp_path / "peer", max_shard_size="100KB")
        (tmp_path / "peer" / "model.safetensors").unlink(missing_ok=True)
        back = load_base(self.marked(tmp_path / "peer", tmp_path / "marked"))
        tokens = random_tokens(30)
        assert_close(our_logits(back.model, tokens), peer_logits(peer, tokens))

    def test_peft(self, tmp_path: Path) -> None:
        base = new_checkpoint(tmp_path / "base", LLAMA)
        lora = LoRA(base.config, LoRASettings(rank=2))
        save_adapter(tmp_path / "lora", base, task="generate", lora=lora, head=None, card={})
        out = export(tmp_path / "lora", tmp_path / "peft", "peft")
        words = ("--base", str(tmp_path / "base"), "--out", str(tmp_path / "back"))
        assert main(["import", str(self.marked(out, tmp_path / "marked")), *words]) == 0


def test_the_error_names_what_it_is_for() -> None:
    with pytest.raises(UsageError, match="here: a PEFT adapter: no family"):
        family_of(replace(LLAMA, mlp="gelu"), "here: a PEFT adapter")
