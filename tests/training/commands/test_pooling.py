"""`--pooling last-mean`: a head that reads the mean of all hidden states beside the last one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import load_adapter, load_base
from model.classifier import ClassifierHead, Labels
from model.engine.engine import Engine
from model.engine.request import Classified, Classify, Request
from model.engine.settings import EngineSettings
from training.commands.classify import METHODS

Cli = Callable[..., tuple[int, str]]
SHORT = ("--steps", 4, "--warmup", 1, "--batch-size", 4, "--eval-every", 2)
POOLED = (*SHORT, "--pooling", "last-mean")


@pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_is_what_is_measured_again(
    method: str, base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out, result = tmp_path / "out", tmp_path / "result.json"
    command = ("classify", "--base", base_path, "--data", spam_file, "--method", method)
    code, err = cli(*command, *POOLED, "--out", out)
    assert code == 0, err
    card = json.loads((out / "card.json").read_text())
    assert card["pooling"] == "last-mean"
    code, err = cli("evaluate", out, "--data", spam_file, "--json", result)
    assert code == 0, err
    again = json.loads(result.read_text())["metrics"]["test_natural"]
    assert again == card["metrics"]["test_natural"]


@pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
def test_the_engine_reads_what_training_did(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    code, err = cli("classify", "--base", base_path, "--data", spam_file, *POOLED, "--out", out)
    assert code == 0, err
    base = load_base(base_path)
    adapter = load_adapter(out, base)
    head = adapter.head
    assert head is not None
    assert head.score.in_features == 2 * base.config.n_embd
    texts = [
        base.tokenizer.encode(t) for t in ("win a prize now", "at home", "a", "win a prize now")
    ]
    # Small steps: prompts come in several chunks.
    engine = Engine(base, {"spam": adapter}, EngineSettings(slots=2, step_tokens=2), print)
    asked = [Request(str(i), tuple(t), Classify(), "spam") for i, t in enumerate(texts)]
    found = [events[-1] for events in engine.run(asked)]
    for text, event in zip(texts, found, strict=True):
        assert isinstance(event, Classified)
        assert event.cached_tokens == 0
        with torch.no_grad():
            hidden = base.model(torch.tensor([text]), adapters=adapter.lora)[0]
            read = torch.cat([hidden[-1], hidden.mean(0)])
            wanted = torch.softmax(head.score(read) / head.labels.temperature, 0)
        np.testing.assert_allclose(event.probabilities, wanted, atol=1e-5)


def test_padding_is_no_part_of_the_mean() -> None:
    head = ClassifierHead(16, Labels(("a", "b")), pooling="last-mean")
    hidden = torch.randn(3, 7, 16)
    lengths = torch.tensor([7, 1, 4])
    pooled = head.pool(hidden, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = head.pool(hidden[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(pooled[row], alone[0])
        torch.testing.assert_close(alone[0, 16:], hidden[row, :length].mean(0))


def test_what_cannot_be_is_named(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ("classify", "--base", base_path, "--data", spam_file, "--out", out)
    code, err = cli(*command, *SHORT, "--pooling", "mean")
    assert (code, "--pooling is 'mean'; it must be one of last, last-mean" in err) == (2, True), err
    code, err = cli(*command, *POOLED)
    assert code == 0, err
    code, err = cli(*command, *SHORT, "--resume")
    assert (code, "--pooling is last, but the saved run has last-mean" in err) == (2, True), err
    for form in ("hf", "peft"):
        flags = ("--base", base_path) if form == "peft" else ()
        code, err = cli("export", out, "--format", form, *flags, "--out", tmp_path / form)
        assert code != 0
        assert "reads the mean of all hidden states beside the last one" in err, err
    settings = out / "adapter.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps({**values, "pooling": "first"}))
    code, err = cli("evaluate", out, "--data", spam_file, "--json", tmp_path / "result.json")
    assert code != 0
    assert str(settings) in err
