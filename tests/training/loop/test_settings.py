"""What flags mean together, and which defaults give way to what was typed."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import UsageError
from tests.training.loop.test_run import Regression, assert_same_state
from training.commands import flags
from training.loop.run import Run
from training.loop.settings import LoopSettings

Cli = Callable[..., tuple[int, str]]


def parsed(*words: object, **defaults: Any) -> LoopSettings:
    parser = argparse.ArgumentParser()
    flags.add_loop(parser, {"epochs": 6.0, "warmup": 20, **defaults})
    return flags.loop(parser.parse_args(["--device", "cpu", *map(str, words)]))


def lengths(settings: LoopSettings) -> tuple[int, float, int]:
    return settings.steps, settings.epochs, settings.tokens


def test_a_default_length_gives_way() -> None:
    assert lengths(parsed()) == (0, 6.0, 0)
    assert lengths(parsed("--steps", 9)) == (9, 0.0, 0)
    assert lengths(parsed("--tokens", 9)) == (0, 0.0, 9)
    assert lengths(parsed("--epochs", 2)) == (0, 2.0, 0)
    assert lengths(parsed("--epochs", 2, "--steps", 0)) == (0, 2.0, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", 3, "--steps", 10), "--steps 10 and --epochs 3.0: each says how long"),
        (("--tokens", 3, "--steps", 10), "--steps 10 and --tokens 3: each says"),
        (("--tokens", 3, "--epochs", 1), "--epochs 1.0 and --tokens 3: each says"),
    ],
)
def test_two_lengths_are_refused(words: tuple[object, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parsed(*words)


def test_two_lengths_are_refused_by_every_training(tmp_path: Path, cli: Cli) -> None:
    for command in ("pretrain", "classify", "instruct", "dpo"):
        base = () if command == "pretrain" else ("--base", tmp_path)
        words = ("--data", tmp_path, *base, "--out", tmp_path / "out", "--epochs", 3, "--steps", 10)
        code, err = cli(command, *words)
        assert (code, "--steps 10 and --epochs 3.0" in err) == (2, True), err


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0), (2, 1), (15, 7), (20, 10), (40, 20), (1000, 20)]
)
def test_a_default_warm_up_gives_way_to_a_short_run(
    steps: int, warmup: int, tmp_path: Path
) -> None:
    settings = parsed("--steps", steps)
    run = Run(Regression(), settings, tmp_path)
    assert run.schedule.warmup == warmup
    assert settings.warmup == 20


def test_a_typed_warm_up_does_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--warmup is 20 steps; it must be .* less than the 15"):
        Run(Regression(), parsed("--steps", 15, "--warmup", 20), tmp_path)
    assert Run(Regression(), parsed("--steps", 15, "--warmup", 14), tmp_path).schedule.warmup == 14
    assert Run(Regression(), parsed("--steps", 50, "--warmup", 0), tmp_path).schedule.warmup == 0


def test_a_longer_run_has_the_warm_up_that_was_begun(tmp_path: Path) -> None:
    same = ("--schedule", "constant", "--precision", "fp32", "--batch-size", 4)

    def train(name: str, *words: object, resume: bool = False) -> None:
        Run(Regression(), parsed(*same, *words), tmp_path / name).train(resume=resume)

    train("a", "--steps", 8)
    with pytest.raises(UsageError, match=r"--resume: --warmup is 10, but the saved run has 4"):
        train("a", "--steps", 20, resume=True)
    train("a", "--steps", 20, "--warmup", 4, resume=True)
    train("b", "--steps", 20, "--warmup", 4)
    assert_same_state(tmp_path / "a", tmp_path / "b")


def test_forty_rows_are_enough_for_a_classifier(
    base_path: Path, spam_rows: list[tuple[str, str]], tmp_path: Path, cli: Cli
) -> None:
    data = tmp_path / "few.tsv"
    by_label = {
        label: [text for name, text in spam_rows if name == label] for label, _ in spam_rows
    }
    rows = [f"{label}\t{text}\n" for label, texts in by_label.items() for text in texts[:20]]
    data.write_text("".join(rows))
    words = ("--base", base_path, "--data", data, "--out", tmp_path / "out", "--device", "cpu")
    code, err = cli("classify", *words, "--method", "head")
    assert code == 0, err


@pytest.mark.parametrize("old", [False, True])
def test_emulated_bf16_is_none(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that multiplies bf16 only by other means; asked as PyTorch was before, or is now."""

    def now(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", (lambda: True) if old else now)
    assert LoopSettings(steps=1).autocast == old
    assert LoopSettings(steps=1, precision="bf16").autocast
