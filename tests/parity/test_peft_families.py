"""Adapters of all families in the package `peft`, out and in: they compute the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import Base, load_adapter, save_adapter
from model.convert.peft_read import read_peft
from model.errors import CheckpointError
from model.lora import LoRA, LoRASettings
from tests.parity.exported import export, new_base
from tests.parity.families import ONE_OF_EACH, Peer, difference, peer_logits, random_tokens
from training.cli import main

# peft still calls transformers by a name that transformers 5 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TOKENS = random_tokens(40)
CLOSE = 1e-4
"""Of the largest logit."""
TARGETS = (
    (),
    ("q", "k", "v"),
    ("q", "v", "out"),
    ("k", "up", "down"),
    ("qkv",),
    ("gate",),
    ("v", "gate", "up"),
)


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return new_base(tmp_path_factory.mktemp(request.param), request.param)[1]


@pytest.fixture(scope="module")
def hugging_face(base: Base) -> Path:
    return export(base.path, base.path.parent / "hf", "hf")


def their_base(directory: Path) -> Peer:
    return transformers.AutoModelForCausalLM.from_pretrained(directory)


@torch.no_grad()
def our_logits(base: Base, lora: LoRA | None) -> Tensor:
    """(time, vocab)"""
    return base.model.logits(base.model(torch.tensor([TOKENS]), adapters=lora))[0]


@torch.no_grad()
def randomise(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(7)
    for parameter in parameters:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def assert_same(base: Base, lora: LoRA, theirs: Tensor) -> None:
    ours = our_logits(base, lora)
    assert difference(ours, theirs) <= CLOSE
    assert difference(our_logits(base, None), theirs) > 100 * CLOSE, "it must change something"


class TestOut:
    @pytest.mark.parametrize("targets", TARGETS, ids=str)
    def test_peft_computes_the_same(
        self, peft: Any, base: Base, hugging_face: Path, targets: tuple[str, ...], tmp_path: Path
    ) -> None:
        """And it is read back, with the same matrices where they have the same form there."""
        gpt2 = base.config.mlp == "gelu"
        if gpt2 and "gate" in targets:
            pytest.skip("GPT-2 has no gate")
        lora = LoRA(base.config, LoRASettings(rank=3, alpha=5.0, targets=targets)).eval()
        randomise(lora.parameters())
        save_adapter(
            tmp_path / "lora", base, task="instruct", lora=lora, head=None, card={},
            dtype=torch.float32, template=base.template,
        )  # fmt: skip
        out = export(tmp_path / "lora", tmp_path / "peft", "peft", "--base-name", str(hugging_face))
        whole = peft.AutoPeftModelForCausalLM.from_pretrained(out).eval()
        assert_same(base, lora, peer_logits(whole, TOKENS))
        words = ("--base", str(base.path), "--out", str(tmp_path / "back"), "--dtype", "fp32")
        assert main(["import", str(out), *words]) == 0
        adapter = load_adapter(tmp_path / "back", base)
        assert (adapter.task, adapter.template) == ("instruct", base.template)
        back = adapter.lora
        assert_same(base, back, our_logits(base, lora))
        if gpt2 and {"q", "k", "v"} & set(targets):
            assert "qkv" in back.settings.targets
            return
        assert (back.settings.rank, back.settings.alpha) == (3, 5.0)
        assert set(back.settings.targets) == set(lora.settings.targets)
        matrices = back.state_dict()
        for key, matrix in lora.state_dict().items():
            assert torch.equal(matrices[key], matrix), key

    @pytest.mark.parametrize("targets", [(), ("q", "v", "out")], ids=str)
    def test_the_root_of_the_rank(
        self, peft: Any, base: Base, hugging_face: Path, targets: tuple[str, ...], tmp_path: Path
    ) -> None:
        settings = LoRASettings(rank=3, alpha=5.0, targets=targets, scaling="sqrt-rank")
        assert settings.scale == pytest.approx(5 / 3**0.5)
        lora = LoRA(base.config, settings).eval()
        randomise(lora.parameters())
        save_adapter(
            tmp_path / "lora", base, task="instruct", lora=lora, head=None, card={},
            dtype=torch.float32, template=base.template,
        )  # fmt: skip
        assert load_adapter(tmp_path / "lora", base).lora.settings.scaling == "sqrt-rank"
        out = export(tmp_path / "lora", tmp_path / "peft", "peft", "--base-name", str(hugging_face))
        assert json.loads((out / "adapter_config.json").read_text())["use_rslora"] is True
        whole = peft.AutoPeftModelForCausalLM.from_pretrained(out).eval()
        assert_same(base, lora, peer_logits(whole, TOKENS))
        words = ("--base", str(base.path), "--out", str(tmp_path / "back"), "--dtype", "fp32")
        assert main(["import", str(out), *words]) == 0
        back = load_adapter(tmp_path / "back", base).lora
        assert back.settings.scaling == "sqrt-rank"
        assert_same(base, back, our_logits(base, lora))

    def test_the_names(self, base: Base, tmp_path: Path) -> None:
        """Are those by which users of each family write their own settings."""
        lora = LoRA(base.config, LoRASettings(rank=2))
        save_adapter(tmp_path / "lora", base, task="generate", lora=lora, head=None, card={})
        out = export(tmp_path / "lora", tmp_path / "peft", "peft")
        config = json.loads((out / "adapter_config.json").read_text())
        gpt2 = base.config.mlp == "gelu"
        wanted = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
        if gpt2:
            wanted = "c_attn attn.c_proj c_fc mlp.c_proj"
        assert config["target_modules"] == wanted.split()
        assert config["fan_in_fan_out"] == gpt2
        assert config["rank_pattern"] == config["alpha_pattern"] == {}
        words = ("--base", str(base.path), "--out", str(tmp_path / "back"))
        assert main(["import", str(out), *words]) == 0
        assert base.template is not None
        assert load_adapter(tmp_path / "back", base).template is None, "it had none before"

    def test_parts_of_one_layer_have_one_pair(self, tmp_path: Path) -> None:
        base = new_base(tmp_path, "gpt2")[1]
        lora = LoRA(base.config, LoRASettings(rank=2, alpha=3.0, targets=("q", "v", "out")))
        save_adapter(tmp_path / "lora", base, task="generate", lora=lora, head=None, card={})
        out = export(tmp_path / "lora", tmp_path / "peft", "peft")
        config = json.loads((out / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (2, 3.0)
        assert config["rank_pattern"] == {"c_attn": 4}
        assert config["alpha_pattern"] == {"c_attn": 6.0}


LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GPT2 = ("c_attn", "c_proj", "c_fc")
Settings = dict[str, Any]
THEIRS: dict[str, Callable[[bool], Settings]] = {
    "all": lambda gpt2: {"target_modules": list(GPT2 if gpt2 else LLAMA)},
    "some": lambda gpt2: {"target_modules": ["c_attn"] if gpt2 else ["q_proj", "v_proj"]},
    "some blocks": lambda gpt2: {
        "target_modules": list(GPT2 if gpt2 else LLAMA),
        "layers_to_transform": [0, 2],
    },
    "ranks": lambda gpt2: {
        "target_modules": list(GPT2 if gpt2 else LLAMA),
        "rank_pattern": {"c_attn": 6, "h.1.mlp.c_fc": 2} if gpt2 else {"v_proj": 6, "1.mlp.*": 2},
    },
    "alphas": lambda gpt2: {
        "target_modules": list(GPT2 if gpt2 else LLAMA),
        "alpha_pattern": {"c_fc": 1, ".*0.attn.c_attn": 0} if gpt2 else {"up_proj": 1, "k_proj": 7},
    },
    "no block in full": lambda gpt2: {
        "target_modules": r".*(0.attn.c_attn|1.mlp.c_fc|2.attn.c_proj)"
        if gpt2
        else r".*(0.self_attn.q_proj|1.self_attn.k_proj|2.mlp.up_proj)",
        "rank_pattern": {"0.attn.c_attn": 2} if gpt2 else {r"self_attn\.q_proj": 2},
    },
    "root of the rank": lambda gpt2: {
        "target_modules": list(GPT2 if gpt2 else LLAMA),
        "use_rslora": True,
        "rank_pattern": {"c_attn": 6} if gpt2 else {"v_proj": 6},
        "alpha_pattern": {"c_fc": 1} if gpt2 else {"up_proj": 1},
    },
    "lengths": lambda gpt2: {
        "target_modules": list(GPT2 if gpt2 else LLAMA),
        "use_dora": True,
        "layers_to_transform": [0, 2],
        "rank_pattern": {"c_attn": 6} if gpt2 else {"v_proj": 6},
    },
    "no scale": lambda gpt2: {
        "target_modules": list(GPT2 if gpt2 else LLAMA),
        "lora_alpha": 0,
        "alpha_pattern": {"attn.c_proj": 3} if gpt2 else {"o_proj": 3},
    },
}


@pytest.mark.parametrize("name", THEIRS)
def test_in(peft: Any, base: Base, hugging_face: Path, name: str, tmp_path: Path) -> None:
    """What `peft` saves, of all kinds of patterns, computes here what it does there."""
    gpt2 = base.config.mlp == "gelu"
    usual = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "fan_in_fan_out": gpt2}
    config = peft.LoraConfig(**usual | THEIRS[name](gpt2))
    theirs = peft.get_peft_model(their_base(hugging_face), config).eval()
    randomise(p for n, p in theirs.named_parameters() if "lora_" in n)
    theirs.save_pretrained(tmp_path / "peft")
    words = ("--base", str(base.path), "--out", str(tmp_path / "back"), "--dtype", "fp32")
    assert main(["import", str(tmp_path / "peft"), *words]) == 0
    adapter = load_adapter(tmp_path / "back", base)
    assert adapter.template == base.template
    assert_same(base, adapter.lora, peer_logits(theirs, TOKENS))


Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


class TestRefusals:
    @pytest.fixture(scope="class")
    @classmethod
    def written(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Path]:
        root = tmp_path_factory.mktemp("refusals")
        base = new_base(root, "qwen3-groups")[1]
        lora = LoRA(base.config, LoRASettings(rank=2, targets=("q", "down")))
        save_adapter(root / "lora", base, task="generate", lora=lora, head=None, card={})
        return base, export(root / "lora", root / "peft", "peft")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                {"task_type": "SEQ_CLS"},
                "has no tensor base_model.model.score.weight of (labels, 64)",
            ),
            ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
            ({"use_dora": "yes"}, "use_dora is 'yes'"),
            ({"use_dora": True}, "q_proj.lora_magnitude_vector"),
            ({"r": 3}, "q_proj.lora_A.weight has the shape (2, 64) in place of (3, 64)"),
            ({"r": True}, "r is True"),
            ({"lora_alpha": "8"}, "lora_alpha '8'"),
            ({"rank_pattern": {"q_proj": 4}}, "(2, 64) in place of (4, 64)"),
            ({"rank_pattern": {"q_proj": 0}}, "rank_pattern has 0 for 'q_proj'"),
            ({"rank_pattern": {"q_proj": "2"}}, "rank_pattern: q_proj is '2'"),
            ({"rank_pattern": [2]}, "rank_pattern is [2]"),
            ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern has -1.0 for 'q_proj'"),
            ({"alpha_pattern": {"(a*)*b": 1}}, "alpha_pattern has the key '(a*)*b'"),
            ({"alpha_pattern": {".*.*.*.*": 1}}, "up to three"),
        ],
        ids=str,
    )
    def test_settings(
        self, written: tuple[Base, Path], tmp_path: Path, change: dict[str, Any], said: str
    ) -> None:
        base, source = written
        shutil.copytree(source, tmp_path / "in")
        path = tmp_path / "in" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(CheckpointError) as caught:
            read_peft(tmp_path / "in", base)
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: t.clear(), "has no LoRA tensors"),
            (lambda t: t.pop(Q), f"has no tensor {Q}"),
            (lambda t: t.update({Q: torch.zeros(2, 63)}), "(2, 63)"),
            (lambda t: t.update({Q.replace("q_proj", "r_proj"): torch.zeros(2, 64)}), "r_proj"),
            (lambda t: t.update({Q.replace(".1.", ".3.", 1): torch.zeros(2, 64)}), "layers.3."),
            (
                lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 64)}),
                "unknown tensors: base_model.model.lm_head",
            ),
        ],
    )
    def test_tensors(
        self, written: tuple[Base, Path], tmp_path: Path, change: Any, said: str
    ) -> None:
        base, source = written
        shutil.copytree(source, tmp_path / "in")
        path = tmp_path / "in" / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        with pytest.raises(CheckpointError) as caught:
            read_peft(tmp_path / "in", base)
        assert said in str(caught.value)
