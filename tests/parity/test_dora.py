"""Weight-decomposed adapters beside `peft`: the same network, the same gradient, out and in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import Base, load_adapter, load_base, save_adapter
from model.convert.peft_write import write_peft
from model.lora import LoRA, LoRASettings
from tests.parity.exported import export, new_base
from tests.parity.families import difference, peer_logits, random_tokens
from training.cli import main

# peft still calls transformers by a name that transformers 5 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TOKENS = random_tokens(40)
CLOSE = 1e-4
"""Of the largest number."""


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture(scope="module", params=["gpt2", "llama-groups", "qwen2-groups"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With biases in all layers, in none, and in some."""
    return new_base(tmp_path_factory.mktemp(request.param), request.param)


@torch.no_grad()
def new_lora(base: Base, *targets: str) -> LoRA:
    lora = LoRA(base.config, LoRASettings(3, 5.0, targets, dora=True)).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in lora.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return lora


@torch.no_grad()
def our_logits(base: Base, lora: LoRA | None) -> Tensor:
    """(time, vocab)"""
    return base.model.logits(base.model(torch.tensor([TOKENS]), adapters=lora))[0]


def published(base: Base, lora: LoRA, out: Path) -> Path:
    save_adapter(
        out, base, task="instruct", lora=lora, head=None, card={}, dtype=torch.float32,
        template=base.template,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("targets", [(), ("q", "v", "out")], ids=str)
def test_out_in_and_merged(
    peft: Any, pair: tuple[Any, Base], targets: tuple[str, ...], tmp_path: Path
) -> None:
    base = pair[1]
    lora = new_lora(base, *targets)
    ours, plain = our_logits(base, lora), our_logits(base, None)
    pairs_alone = LoRA(base.config, LoRASettings(3, 5.0, lora.settings.targets))
    pairs_alone.load_state_dict({k: v for k, v in lora.state_dict().items() if "gain" not in k})
    for other in (plain, our_logits(base, pairs_alone)):
        assert difference(ours, other) > 100 * CLOSE

    saved = published(base, lora, tmp_path / "lora")
    hugging_face = export(base.path, tmp_path / "hf", "hf")
    out = export(saved, tmp_path / "peft", "peft", "--base-name", str(hugging_face))
    assert json.loads((out / "adapter_config.json").read_text())["use_dora"] is True
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(out).eval()
    assert difference(ours, peer_logits(theirs, TOKENS)) <= CLOSE

    words = ("--base", str(base.path), "--out", str(tmp_path / "back"), "--dtype", "fp32")
    assert main(["import", str(out), *words]) == 0
    back = load_adapter(tmp_path / "back", base).lora
    assert back.settings.dora
    assert difference(our_logits(base, back), ours) <= CLOSE

    merged = export(saved, tmp_path / "merged", "hf", "--dtype", "fp32")
    whole = transformers.AutoModelForCausalLM.from_pretrained(merged)
    assert difference(ours, peer_logits(whole, TOKENS)) <= CLOSE


def test_the_gradient(peft: Any, pair: tuple[Any, Base], tmp_path: Path) -> None:
    """Of pairs and magnitudes: the norm is a constant to it."""
    peer, base = pair
    lora = new_lora(base)
    adapter = load_adapter(published(base, lora, tmp_path / "lora"), base)
    (tmp_path / "peft").mkdir()
    write_peft(tmp_path / "peft", base, adapter, torch.float32, None)
    theirs = peft.PeftModel.from_pretrained(peer, tmp_path / "peft", is_trainable=True)
    try:
        ids = torch.tensor([TOKENS])
        theirs(ids).logits.square().mean().backward()
        lora.learn(base.model)
        model = load_base(base.path).model.requires_grad_(False)
        lora.train()
        loss = model.logits(model(ids, adapters=lora)).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        # In the form of peft: B, magnitudes and A of the layers that they have.
        found = {
            name.removeprefix("base_model.model.").replace(".default", ""): p.grad
            for name, p in theirs.named_parameters()
            if "lora_" in name
        }
    finally:
        theirs.unload()
    gpt2 = base.config.mlp == "gelu"
    layer = "transformer.h.{}.mlp.c_proj" if gpt2 else "model.layers.{}.mlp.down_proj"
    attention = "transformer.h.{}.attn.c_attn" if gpt2 else "model.layers.{}.self_attn.q_proj"
    for block in range(base.config.n_layer):
        for name, target in ((layer, "mlp/down"), (attention, "attention/qkv")):
            of_site, of_layer = f"blocks/{block}/{target}", name.format(block)
            magnitude = lora.magnitude[of_site].grad
            wanted = found[f"{of_layer}.lora_magnitude_vector.weight"]
            assert magnitude is not None
            assert difference(magnitude[: len(wanted)], wanted) <= 10 * CLOSE
            b, wanted = lora.b[of_site].grad, found[f"{of_layer}.lora_B.weight"]
            assert b is not None
            assert difference(b[: len(wanted)], wanted) <= 10 * CLOSE
            if gpt2 or target == "mlp/down":  # else q, k and v of theirs have an A each
                a = lora.a[of_site].grad
                assert a is not None
                assert difference(a, found[f"{of_layer}.lora_A.weight"]) <= 10 * CLOSE


def test_the_files_hold_gains(pair: tuple[Any, Base], tmp_path: Path) -> None:
    base = pair[1]
    path = published(base, new_lora(base, "up"), tmp_path / "lora")
    assert json.loads((path / "adapter.json").read_text())["dora"] is True
    names = {name.rpartition(".")[2] for name in load_file(path / "adapter.safetensors")}
    assert names == {"a", "b", "gain"}
