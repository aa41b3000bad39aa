"""`--dry-run`: true numbers, and nothing left behind."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from model.architecture import Architecture
from model.attention import causal_attention
from model.checkpoint import Base
from model.errors import UsageError
from model.frozen import Held, hold
from model.lora import LoRA, LoRASettings
from model.rope import Rope
from model.transformer import Transformer
from training.cli import main
from training.loop.compute import count, counted_flops
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


LLAMA = replace(MODERN, qk_norm=False, head_dim=16, rope=Rope(10_000.0), tied=False)
QWEN2 = replace(MODERN, qk_norm=False, head_dim=16, bias="qkv")
SHAPES = {"gpt2": CONFIG, "llama": LLAMA, "qwen2.5": QWEN2, "qwen3": MODERN}


LEARNING: list[tuple[str, Held]] = [
    *(("full", "fp32"), ("last-block", "fp32"), ("lora", "fp32"), ("lora", "bf16")),
    *(("lora", "int8"), ("head", "fp32"), ("head", "bf16"), ("head", "int8")),
]


@pytest.mark.parametrize(("method", "held"), LEARNING)
@pytest.mark.parametrize("family", SHAPES)
def test_compute_agrees_with_the_operations_that_are_done(
    family: str, method: str, held: Held
) -> None:
    config = SHAPES[family]
    model, adapters = Transformer(config), None
    trained = nn.ModuleDict({"model": model})
    if method != "full":
        hold(model, held)
    if method == "lora":
        adapters = LoRA(config, LoRASettings(8, 16.0))
        trained = nn.ModuleDict({"lora": adapters})
    if method == "last-block":
        model.blocks[-1].requires_grad_(True)
    if method == "head":
        trained = nn.ModuleDict({"head": nn.Linear(64, 2)})
    tokens = torch.randint(config.vocab_size, (2, 128))

    def step() -> None:
        hidden = model(tokens, adapters=adapters)
        if method == "head":
            trained["head"](hidden[:, -1]).sum().backward()
        else:
            token_loss(model, hidden, tokens)[0].backward()  # type: ignore[no-untyped-call]

    compute = count(model, trained, length=128, outputs=0.0 if method == "head" else 1.0)
    assert counted_flops(step) / tokens.numel() == pytest.approx(compute.flops, rel=0.02)


def test_attention_with_dropout_is_counted() -> None:
    """Which is PyTorch's own, on a CPU another operation than elsewhere."""
    query = torch.randn(2, 64, 4, 16, requires_grad=True)
    alone = counted_flops(lambda: causal_attention(query, query, query, 0.1).sum().backward())
    assert alone >= 3 * 2 * 2 * 2 * 4 * 64 * 64 * 16


@families
def test_whole_network_costs_six_operations_a_weight(config: Architecture) -> None:
    model = Transformer(config)
    compute = count(model, model, length=100, outputs=1.0)
    few = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    weights = model.parameter_count() - few - sum(p.numel() for p in model.positions.parameters())
    assert compute.flops == 6 * weights + 12 * 2 * config.n_head * config.head_dim * 100


@families
def test_head_alone_hands_no_gradient_back(config: Architecture) -> None:
    model = Transformer(config).requires_grad_(False)
    head = nn.ModuleDict({"head": nn.Linear(64, 2)})
    compute = count(model, head, length=100, outputs=0.0)
    assert compute.back == compute.learns == 0
    assert compute.attention == 4 * 2 * config.n_head * config.head_dim * 100


@pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
@pytest.mark.parametrize("command", ["pretrain", "classify", "instruct", "dpo"])
def test_dry_run_says_what_it_takes_and_leaves_nothing(
    command: str,
    base: Base,
    base_path: Path,
    text_file: Path,
    spam_file: Path,
    instruction_file: Path,
    preference_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    files = {"pretrain": text_file, "classify": spam_file, "instruct": instruction_file}
    data = {**files, "dpo": preference_file}[command]
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
    counted = re.search(r"counted in a step: ([\d.]+) million a token", printed)
    assert counted is not None
    assert float(counted[1]) > 0
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
