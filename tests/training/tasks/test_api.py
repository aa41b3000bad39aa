"""What the commands call can be called from Python, too, and comes to the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import Adapter, Base
from model.errors import UsageError
from training.data.labelled import Reading
from training.loop.settings import LoopSettings
from training.objectives.labels import Options
from training.tasks import Job, classify, dpo, instruct, pretrain
from training.tasks.pretrain import Corpus
from training.tuning.methods import Method

ROOT = Path(__file__).parents[3]
Cli = Callable[..., tuple[int, str]]
FLAGS = ("--steps", 2, "--warmup", 0, "--eval-batches", 1, "--batch-size", 4)
SETTINGS: dict[str, Any] = {"steps": 2, "warmup": 0, "eval_batches": 1, "batch_size": 4}


def settings(**changes: Any) -> LoopSettings:
    return LoopSettings(**{**SETTINGS, **changes})


def same_weights(one: Path, other: Path) -> bool:
    [file] = [path.name for path in one.glob("*.safetensors")]
    first, second = load_file(one / file), load_file(other / file)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_every_task_gives_what_its_command_gives(
    base_path: Path,
    text_file: Path,
    tokenizer_file: Path,
    spam_file: Path,
    instruction_file: Path,
    preference_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    ours, theirs = tmp_path / "python", tmp_path / "command"
    lora = ("--lora-rank", 2)
    found: dict[str, Base | Adapter | None] = {}
    found["pretrain"] = pretrain(
        Corpus((text_file,), context=16, val_fraction=0.2),
        Job(ours / "pretrain", licences=("mine",)),
        tokenizer=str(tokenizer_file),
        settings=settings(spike=10.0),
    )
    text = ("--data", text_file, "--tokenizer", tokenizer_file, "--context", 16)
    words = ("pretrain", *text, "--val-fraction", 0.2, "--sample-every", 0)
    assert cli(*words, "--out", theirs / "pretrain", *FLAGS)[0] == 0
    found["classify"] = classify(
        [spam_file],
        base_path,
        Job(ours / "classify"),
        reading=Reading(distinct="near"),
        options=Options(lm_weight=0.5),
        method=Method(rank=2),
        settings=settings(lr=1e-3, weight_decay=0.01),
    )
    words = ("classify", "--base", base_path, "--data", spam_file, "--distinct", "near")
    words = (*words, "--lm-weight", 0.5, *lora)
    assert cli(*words, "--out", theirs / "classify", *FLAGS)[0] == 0
    found["instruct"] = instruct(
        [instruction_file],
        base_path,
        Job(ours / "instruct"),
        method=Method(rank=2),
        settings=settings(lr=1e-3, weight_decay=0.01),
    )
    words = ("instruct", "--base", base_path, "--data", instruction_file, *lora)
    assert cli(*words, "--out", theirs / "instruct", *FLAGS)[0] == 0
    found["dpo"] = dpo(
        [preference_file],
        base_path,
        Job(ours / "dpo"),
        adapter=ours / "instruct",
        settings=settings(lr=5e-5, weight_decay=0.01),
    )
    words = ("dpo", "--base", base_path, "--data", preference_file)
    words = (*words, "--adapter", theirs / "instruct")
    assert cli(*words, "--out", theirs / "dpo", *FLAGS)[0] == 0
    for name, checkpoint in found.items():
        assert checkpoint is not None
        assert checkpoint.path == ours / name
        assert same_weights(ours / name, theirs / name), name
        mine, other = (json.loads((p / name / "card.json").read_text()) for p in (ours, theirs))
        assert mine["metrics"] == other["metrics"], name
        assert mine["command"] is None


def test_a_dry_run_publishes_nothing(
    base_path: Path, spam_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path / "out", dry_run=True)
    assert classify([spam_file], base_path, job, settings=settings()) is None
    assert "parameters" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="--dry-run with --resume"):
        classify([spam_file], base_path, Job(tmp_path / "out", dry_run=True, resume=True))


def test_the_example_of_the_documentation_runs(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("## From Python")
    example = rest.split("```python\n", 1)[1].split("```", 1)[0]
    example = example.replace("epochs=20", "epochs=1").replace("docs/", f"{ROOT}/docs/")
    base = Path("checkpoints/scratch/base")
    (tmp_path / base).parent.mkdir(parents=True)
    (tmp_path / base).symlink_to(base_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/training.md", "exec"), {})
    assert (tmp_path / "runs" / "tickets" / "adapter.json").is_file()
