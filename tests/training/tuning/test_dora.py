"""Weight-decomposed adapters in training: magnitudes learn, and what is published are gains."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint import Base, load_adapter, load_base, save_adapter
from model.frozen import Held, hold, widened
from model.lora import LoRA, LoRASettings
from model.transformer import Transformer
from training.loop import state as saved_state
from training.loop.settings import LoopSettings
from training.tasks.dpo import start
from training.tuning.methods import start_tuning

Cli = Callable[..., tuple[int, str]]
families = pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
SHAPE = LoRASettings(3, 6.0, dora=True)
SETTINGS = LoopSettings(steps=1, device="cpu", precision="fp32")
SHORT = ("--steps", 3, "--warmup", 0, "--eval-batches", 1, "--batch-size", 4, "--lora-rank", 2)
TOKENS = torch.randint(400, (2, 20), generator=torch.Generator().manual_seed(6))


@torch.no_grad()
def changed(base: Base, shape: LoRASettings = SHAPE) -> LoRA:
    """An adapter that changes much."""
    lora = LoRA(base.config, shape).eval()
    draw = torch.Generator().manual_seed(1)
    for parameter in lora.parameters():
        parameter.normal_(0, 0.1, generator=draw)
    return lora


@torch.no_grad()
def hidden(model: Transformer, lora: LoRA | None) -> Tensor:
    return model(TOKENS, adapters=lora)


@families
@pytest.mark.parametrize("held", ["fp32", "bf16", "int8"])
def test_the_norm_is_of_the_matrix_as_it_is_held(base: Base, held: Held) -> None:
    lora = changed(base)
    hold(base.model, held)
    for path, layer in base.model.projections():
        change = lora.change(path)
        assert change is not None
        a, b = change
        whole = widened(layer.weight, getattr(layer, "scale", None), torch.float32) + b @ a
        assert torch.allclose(lora.norms(layer), whole.norm(dim=1), rtol=1e-5)


def test_a_channel_of_zeros_stays_finite(base: Base) -> None:
    layer = next(base.model.projections())[1]
    with torch.no_grad():
        layer.weight[0] = 0
    lora = LoRA(base.config, SHAPE)
    lora.init_weights(torch.Generator().manual_seed(0))
    lora.learn(base.model)
    assert hidden(base.model, lora).isfinite().all()


@families
@pytest.mark.parametrize("held", ["fp32", "bf16", "int8"])
def test_at_first_nothing_changes(base: Base, held: Held) -> None:
    tuning = start_tuning(base, "lora", SHAPE, None, SETTINGS, held)
    lora = tuning.network.lora
    assert lora is not None
    magnitudes = [name for name, _ in tuning.trained.named_parameters() if "magnitude" in name]
    assert len(magnitudes) == len(lora.sites)
    assert torch.equal(hidden(base.model, lora), hidden(base.model, None))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hidden(base.model, lora), hidden(base.model, None))
    tuning.settle()
    assert all(not gain.any() for gain in lora.gain.values())


@families
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_settling_and_learning_on_change_nothing(base: Base, dropout: float) -> None:
    """With dropout the sites of a projection are computed one by one."""
    lora = changed(base, LoRASettings(3, 6.0, ("qkv", "up"), dropout, dora=True))
    before, gains = hidden(base.model, lora), {k: g.clone() for k, g in lora.gain.items()}
    lora.learn(base.model)
    assert len(lora.magnitude) == len(gains)
    assert not lora.gain
    assert torch.allclose(hidden(base.model, lora), before, atol=1e-4)
    lora.train()
    if not dropout:
        assert torch.allclose(base.model(TOKENS, adapters=lora), before, atol=1e-4)
    base.model(TOKENS, adapters=lora).square().mean().backward()
    for magnitude in lora.magnitude.values():
        assert magnitude.grad is not None
        assert magnitude.grad.abs().max() > 0
    lora.eval().settle(base.model)
    assert not lora.magnitude
    for key, gain in lora.gain.items():
        assert torch.allclose(gain, gains[key], atol=1e-5)


@families
def test_preferences_go_on_from_one(base: Base, base_path: Path, tmp_path: Path) -> None:
    """Policy and reference begin as what it is."""
    save_adapter(tmp_path / "a", base, task="instruct", lora=changed(base), head=None, card={})
    adapter = load_adapter(tmp_path / "a", base)
    wanted = hidden(base.model, adapter.lora)
    for method in ("lora", "full"):
        loaded = load_base(base_path)
        tuning, reference = start(loaded, adapter, method, None, SETTINGS)
        assert torch.allclose(hidden(reference.model, reference.lora), wanted, atol=1e-4)
        ours = hidden(tuning.network.model, tuning.network.lora)
        assert torch.allclose(ours, wanted, atol=1e-4)
    assert (wanted - hidden(base.model, None)).abs().max() > 0.05


def test_a_run_publishes_it_and_goes_on(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("instruct", "--base", base_path, "--data", instruction_file, *SHORT)
    words = (*words, "--lr", 0.01, "--out", tmp_path / "out")
    assert cli(*words, "--dora")[0] == 0
    base = load_base(base_path)
    adapter = load_adapter(tmp_path / "out", base)  # its golden outputs were computed as saved
    assert adapter.card["lora"]["dora"] is True
    assert all(0 < gain.abs().max() < 0.5 for gain in adapter.lora.gain.values())
    before = (tmp_path / "out" / "adapter.safetensors").read_bytes()
    assert cli(*words, "--dora", "--resume")[0] == 0
    assert (tmp_path / "out" / "adapter.safetensors").read_bytes() == before
    code, said = cli(*words, "--resume")
    assert code == 2
    assert "--lora is" in said

    assert cli(*words)[0] == 0
    assert "dora" not in json.loads((tmp_path / "out" / "adapter.json").read_text())
    run = tmp_path / "out.run"
    state = saved_state.load(run)
    del state["identity"]["lora"]["dora"]  # as before there was a choice
    saved_state.save(state, saved_state.last_state(run))
    code, said = cli(*words, "--resume")
    assert code == 0, said


def test_what_is_refused(
    base: Base, base_path: Path, spam_file: Path, preference_file: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("--base", base_path, "--out", tmp_path / "out", "--dora", "--data")
    code, said = cli("classify", *words, spam_file, "--method", "head")
    assert code == 2
    assert "--dora is of adapters; with --method head there are none" in said
    save_adapter(tmp_path / "a", base, task="instruct", lora=changed(base), head=None, card={})
    code, said = cli("dpo", *words, preference_file, "--adapter", tmp_path / "a")
    assert code == 2
    assert "--dora is given, but with --adapter the adapter's own shape is kept" in said
