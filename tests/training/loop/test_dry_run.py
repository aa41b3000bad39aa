"""`--dry-run`: true numbers, and nothing left behind."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.architecture import Architecture
from model.checkpoint import Base
from model.errors import UsageError
from model.lora import LoRA, LoRASettings
from model.rope import Rope
from model.transformer import Transformer
from training.cli import main
from training.loop.compute import count
from training.objectives.cross_entropy import token_loss
from training.tasks import Job

Cli = Callable[..., tuple[int, str]]

CONFIG = Architecture(512, 128, n_layer=2, n_head=4, n_embd=64)
MODERN = replace(
    CONFIG,
    n_kv_head=2,
    head_dim=32,
    mlp_width=176,
    norm="rms",
    mlp="swiglu",
    bias="none",
    qk_norm=True,
    rope=Rope(),
)
families = pytest.mark.parametrize("config", [CONFIG, MODERN], ids=["gpt2", "modern"])
SHORT = ("--steps", 6, "--warmup", 0, "--batch-size", 4, "--eval-every", 4, "--threads", 1)


def counted_products(model: Transformer, adapters: LoRA | None) -> tuple[float, float]:
    """Operations of the products with weights, and of attention, in a step, a token, as PyTorch
    counts them."""
    tokens = torch.randint(0, model.config.vocab_size, (2, 128))
    with FlopCounterMode(display=False) as counter:
        loss, _ = token_loss(model, model(tokens, adapters=adapters), tokens)
        loss.backward()
    totals = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(flops for name, flops in totals.items() if name.endswith("bmm"))
    return (sum(totals.values()) - attention) / tokens.numel(), attention / tokens.numel()


@families
@pytest.mark.parametrize("method", ["full", "lora", "last-block"])
def test_compute_agrees_with_the_products_that_are_done(method: str, config: Architecture) -> None:
    model, adapters = Transformer(config), None
    trained = nn.ModuleDict({"model": model})
    if method == "lora":
        model.requires_grad_(False)
        adapters = LoRA(config, LoRASettings(8, 16.0))
        trained = nn.ModuleDict({"lora": adapters})
    if method == "last-block":
        model.requires_grad_(False)
        model.blocks[-1].requires_grad_(True)
    compute = count(model, trained, length=128, outputs=1.0)
    found, attention = counted_products(model, adapters)
    # Biases and norms are weights, too, but no products: below 2% here. The first layer that
    # learns does not hand its gradient on where nothing below it learns.
    assert compute.flops - compute.attention == pytest.approx(found, rel=0.1)
    # Of attention's products backward one half adds in place, which PyTorch does not count.
    forward = 4 * 2 * config.n_head * config.head_dim * 128
    assert attention == forward + (compute.attention - forward) / 2


@families
def test_whole_network_costs_six_operations_a_weight(config: Architecture) -> None:
    model = Transformer(config)
    compute = count(model, model, length=100, outputs=1.0)
    aside = [*model.positions.parameters(), *model.norm.parameters()]
    weights = model.parameter_count() - sum(p.numel() for p in aside)
    assert compute.flops == 6 * weights + 12 * 2 * config.n_head * config.head_dim * 100


@families
def test_head_alone_hands_no_gradient_back(config: Architecture) -> None:
    model = Transformer(config).requires_grad_(False)
    head = nn.ModuleDict({"head": nn.Linear(64, 2)})
    compute = count(model, head, length=100, outputs=0.0)
    assert compute.back == compute.learns == 0
    assert compute.attention == 4 * 2 * config.n_head * config.head_dim * 100


@pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
@pytest.mark.parametrize("command", ["pretrain", "classify", "instruct"])
def test_dry_run_says_what_it_takes_and_leaves_nothing(
    command: str,
    base: Base,
    base_path: Path,
    text_file: Path,
    spam_file: Path,
    instruction_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    data = {"pretrain": text_file, "classify": spam_file, "instruct": instruction_file}[command]
    words = [command, "--base", base_path, "--data", data, "--out", tmp_path / "out", *SHORT]
    assert main([str(word) for word in [*words, "--dry-run"]]) == 0
    assert list(tmp_path.rglob("*")) == [tmp_path / "temporary"]
    printed = capsys.readouterr().out
    if command == "pretrain":
        total = base.model.parameter_count()
        assert f"parameters   {total:,}, of which {total:,} learn" in printed
        assert f"weights {4 * total / 1e6:,.1f} MB, gradients {4 * total / 1e6:,.1f} MB" in printed
        assert f"optimizer {8 * total / 1e6:,.1f} MB" in printed
    activations, needed = re.findall(r"activations ([\d.]+) MB .*: ([\d.]+) MB in all", printed)[0]
    assert 0 < float(activations) < float(needed)
    peak = re.search(r"measured peak: ([\d,.]+) MB resident", printed)
    assert peak is not None
    assert float(peak[1].replace(",", "")) > float(needed)
    assert "6 steps of 4 × 1 examples" in printed
    assert "3 evaluations" in printed  # at the start, after 4 and after 6


def test_activations_grow_with_the_batch(
    base_path: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "--base", base_path, "--data", text_file, "--out", tmp_path / "out"]
    sizes = []
    for rows in (2, 8):
        flags = [*words, *SHORT, "--batch-size", rows, "--precision", "fp32", "--dry-run"]
        assert main([str(word) for word in flags]) == 0
        found = re.search(r"activations ([\d.]+) MB", capsys.readouterr().out)
        assert found is not None
        sizes.append(float(found[1]))
    assert sizes[1] == pytest.approx(4 * sizes[0], rel=0.15)


def test_dry_run_resumes_nothing(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("--base", base_path, "--data", spam_file, "--out", tmp_path / "out", *SHORT)
    code, err = cli("classify", *words, "--dry-run", "--resume")
    assert code == 2
    assert "--dry-run with --resume" in err


def test_dry_run_is_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        Job(Path("out"), dry_run=True).directory().__enter__()
