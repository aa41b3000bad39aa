"""`penwright-train pretrain`: learns, stops and goes on, publishes."""

import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from model.architecture import PRESETS
from model.checkpoint import Base, load_base
from model.tokenizer import Tokenizer
from training.loop.run import Batch
from training.measure.language import text_metrics
from training.objectives.next_tokens import Pretraining

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def command(text_file: Path, tokenizer_file: Path) -> tuple[object, ...]:
    return (
        *("pretrain", "--data", text_file, "--tokenizer", tokenizer_file, "--preset", "tiny"),
        *("--context", 32, "--val-fraction", 0.2, "--batch-size", 4, "--steps", 6),
        *("--warmup", 2, "--eval-every", 3, "--dropout", 0.1, "--lr", 0.005),
    )


@pytest.mark.parametrize("preset", ["tiny", "small-modern"])
def test_a_resumed_run_publishes_the_same_weights(
    preset: str,
    tmp_path: Path,
    command: tuple[object, ...],
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (*command, "--preset", preset)
    assert cli(*command, "--out", tmp_path / "whole")[0] == 0
    calls = []
    original = Pretraining.batch

    def batch(self: Pretraining, examples: Sequence[int]) -> Batch:
        calls.append(examples)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, examples)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "batch", batch)
        code, err = cli(*command, "--out", tmp_path / "parts")
    assert code == 1
    assert "stopped at step 3 of 6" in err
    code, err = cli(*command, "--out", tmp_path / "parts", "--resume")
    assert code == 0, err
    whole, parts = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    states = [torch.load(tmp_path / f"{n}.run/state/last.pt") for n in ("whole", "parts")]
    for name, tensor in states[0]["trained"].items():
        assert torch.equal(tensor, states[1]["trained"][name]), name
    base = load_base(tmp_path / "parts")
    vocab_size = base.tokenizer.vocab_size
    assert base.config == replace(PRESETS[preset], vocab_size=vocab_size, context_length=32)


def test_the_published_base_knows_what_it_learnt(
    tmp_path: Path, command: tuple[object, ...], text_file: Path, cli: Cli
) -> None:
    out = tmp_path / "base"
    code, err = cli(*command, "--out", out, "--steps", 30)
    assert code == 0, err
    base = load_base(out)
    assert base.task == "generate"
    metrics = base.card["metrics"]["validation"]
    assert metrics["loss"] < math.log(base.config.vocab_size) - 0.3
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert base.card["data"]["files"][0]["file"] == text_file.name
    code, err = cli("evaluate", out, "--data", text_file, "--json", tmp_path / "m.json")
    assert code == 0, err
    measured = json.loads((tmp_path / "m.json").read_text())["metrics"][text_file.name]
    assert measured["bytes"] <= text_file.stat().st_size
    assert 0 < measured["bits_per_byte"] < 8


def test_resuming_with_another_split_is_refused_and_loses_nothing(
    tmp_path: Path, command: tuple[object, ...], text_file: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    assert cli(*command, "--out", out)[0] == 0
    tokens = tmp_path / "out.run" / "data" / "train.bin"
    written = tokens.stat().st_mtime_ns
    code, err = cli(*command, "--out", out, "--resume", "--val-fraction", 0.4)
    assert (code, "--val-fraction is 0.4, but the saved run has 0.2" in err) == (2, True), err
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text() + "more\n")
    code, err = cli(*command, "--out", out, "--resume", "--data", other)
    assert (code, "--data is not what the saved run was trained on" in err) == (2, True), err
    assert tokens.stat().st_mtime_ns == written
    assert cli(*command, "--out", out, "--resume")[0] == 0


def test_evaluation_tells_files_of_the_same_name_apart(
    tmp_path: Path, base_path: Path, text_file: Path, cli: Cli
) -> None:
    paths = [tmp_path / "a" / "text.txt", tmp_path / "b" / "text.txt", tmp_path / "c.txt"]
    for count, path in enumerate(paths, 1):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mother is home " * 10 * count)
    assert cli("evaluate", base_path, "--data", *paths, "--json", tmp_path / "m.json")[0] == 0
    measured = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert list(measured) == [str(paths[0]), str(paths[1]), "c.txt"]
    assert [values["bytes"] for values in measured.values()] == [150, 300, 450]


def test_text_metrics_measure_every_token_once(base: Base, tokenizer: Tokenizer) -> None:
    context = base.config.context_length
    text = "win the prize for you. " * 60
    tokens = np.array([tokenizer.end_token, *tokenizer.encode(text), tokenizer.end_token])
    assert len(tokens) > 2 * context
    assert (len(tokens) - 1) % context
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, context):
            window = torch.from_numpy(tokens[start : start + context + 1])[None]
            logits = base.model.logits(base.model(window[:, :-1]))[0]
            total += F.cross_entropy(logits, window[0, 1:], reduction="sum").item()
    found = text_metrics(base.model, tokens, tokenizer)
    assert found["tokens"] == len(tokens) - 1
    assert found["bytes"] == len(text.encode())
    assert found["loss"] == pytest.approx(total / (len(tokens) - 1), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / len(text), rel=1e-5)


def test_the_same_seed_gives_the_same_base(
    tmp_path: Path, command: tuple[object, ...], cli: Cli
) -> None:
    short = (*command, "--steps", 3, "--warmup", 1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli(*short, "--out", tmp_path / name, "--seed", seed)[0] == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_mixture_of_files_trains_and_is_on_the_card(
    tmp_path: Path, command: tuple[object, ...], text_file: Path, cli: Cli
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n<|endoftext|>\n".join("cash prize " * 30 + str(i) for i in range(40)))
    args = (*command, "--data", text_file, other, "--out", tmp_path / "out")
    code, err = cli(*args, "--weights", 3, 1)
    assert code == 0, err
    card = load_base(tmp_path / "out").card
    assert card["data"]["weights"] == [3.0, 1.0]
    tokens = [source["train_tokens"] for source in card["data"]["files"]]
    assert sum(tokens) == card["data"]["train_tokens"]
    code, err = cli(*args, "--weights", 1, 3, "--resume")
    assert (code, "--weights is [1.0, 3.0], but the saved run has [3.0, 1.0]" in err) == (2, True)
    for weights, message in (((1,), "--data has 2 files"), ((1, 0), "it must be a number above 0")):
        code, err = cli(*args, "--weights", *weights)
        assert (code, message in err) == (2, True), err


def test_training_goes_on_from_a_published_base(
    tmp_path: Path, command: tuple[object, ...], base_path: Path, text_file: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    args = ("pretrain", "--data", text_file, "--base", base_path, "--out", out, "--steps", 2)
    code, err = cli(*args, "--val-fraction", 0.2, "--lr", 1e-5, "--batch-size", 2)
    assert code == 0, err
    old, new = load_base(base_path), load_base(out)
    assert new.config == old.config
    assert new.tokenizer.sha256 == old.tokenizer.sha256
    assert new.card["origin"]["sha256"] == old.id
    weights = new.model.state_dict()
    for name, tensor in old.model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, atol=2e-3, rtol=1e-2)
    code, err = cli(*args, "--preset", "tiny")
    assert (code, "--preset is tiny; --base brings its own" in err) == (2, True), err


@pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
def test_windows_may_be_shorter_than_the_bases_context(
    tmp_path: Path, base_path: Path, text_file: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made for long texts goes on learning on a machine that has no memory for them."""
    shapes = []
    original = Pretraining.loss

    def loss(self: Pretraining, batch: Batch) -> torch.Tensor:
        shapes.append(batch.inputs.shape)
        return original(self, batch)

    monkeypatch.setattr(Pretraining, "loss", loss)
    args = ("pretrain", "--data", text_file, "--base", base_path, "--out", tmp_path / "out")
    few = ("--steps", 2, "--warmup", 0, "--batch-size", 2, "--schedule", "constant")
    code, err = cli(*args, *few, "--context", 20)
    assert code == 0, err
    assert set(shapes) == {(2, 20)}
    assert load_base(tmp_path / "out").config == load_base(base_path).config
    code, err = cli(*args, *few, "--context", 30, "--resume")
    assert (code, "--context is 30, but the saved run has 20" in err) == (2, True), err
    code, err = cli(*args, *few, "--context", 129)
    assert (code, "--context is 129; the base was made for 128" in err) == (2, True), err
