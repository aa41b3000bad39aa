"""No row that trained a checkpoint, or validated it, is in its test, whatever files are named."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data.splits import Parts

Cli = Callable[..., tuple[int, str]]
Row = tuple[str, str]
SHORT = ("--steps", 2, "--warmup", 0, "--lora-rank", 2, "--eval-batches", 1)


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    return path


def measured(cli: Cli, out: Path, *words: object) -> dict[str, Any]:
    code, err = cli("evaluate", *words, "--json", out)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture
def files(spam_rows: list[Row], tmp_path: Path) -> list[Path]:
    rows = list(spam_rows)
    random.Random(1).shuffle(rows)
    return [
        write(tmp_path / f"{name}.tsv", part)
        for name, part in (("a", rows[:40]), ("b", rows[40:80]), ("extra", rows[80:]))
    ]


@pytest.fixture
def spam(files: list[Path], base_path: Path, tmp_path: Path, cli: Cli) -> Path:
    out = tmp_path / "spam"
    command = ("classify", "--base", base_path, "--data", *files[:2], "--extra", files[2])
    code, err = cli(*command, "--balance", "undersample", "--out", out, *SHORT)
    assert code == 0, err
    return out


def texts(file: Path) -> list[str]:
    return [line.split("\t")[1] for line in file.read_text().splitlines()]


def test_a_classifier_is_tested_on_no_row_of_its_training(
    spam: Path, files: list[Path], tmp_path: Path, cli: Cli
) -> None:
    parts = Parts.read(spam)
    assert parts is not None
    on_card = json.loads((spam / "card.json").read_text())["metrics"]["test_natural"]
    for data in ([files[0]], [files[1]], files[:2], files[1::-1]):
        expected = sum(parts.part(text) == "test" for file in data for text in texts(file))
        found = measured(cli, tmp_path / "m.json", spam, "--data", *data)
        assert found["metrics"]["test_natural"]["n"] == expected
        if len(data) == 2:
            assert found["metrics"]["test_natural"]["confusion"] == on_card["confusion"]
    assert len({parts.part(text) for text in texts(files[2])}) == 1
    code, err = cli("evaluate", spam, "--data", files[2])
    assert code == 1
    assert "no row is left to measure on: 10 of 10 trained the checkpoint" in err


def test_new_data_may_lack_a_label(spam: Path, tmp_path: Path, cli: Cli) -> None:
    new = write(tmp_path / "new.tsv", [("spam", f"free cash {word}") for word in ("x", "y", "z")])
    found = measured(cli, tmp_path / "m.json", spam, "--data", new, "--html", tmp_path / "m.html")
    metrics = found["metrics"]["test_natural"]
    assert metrics["n"] == 3
    assert metrics["of"] == "the label spam"
    assert "roc_auc" not in metrics
    assert "0 of the checkpoint's test part and 3 that it has not met" in found["methods"]["rows"]
    unknown = write(tmp_path / "unknown.tsv", [("eggs", "one"), ("spam", "two")])
    code, err = cli("evaluate", spam, "--data", unknown)
    assert code == 1
    assert "has the labels eggs, spam; the checkpoint knows ham, spam" in err


@pytest.fixture
def follower(
    instruction_rows: list[dict[str, str]], base_path: Path, tmp_path: Path, cli: Cli
) -> Path:
    """Trained on half of one file, and tested on another."""
    for name, rows in (("train", instruction_rows[:60]), ("test", instruction_rows[60:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    data, test, out = tmp_path / "train.json", tmp_path / "test.json", tmp_path / "follower"
    command = ("instruct", "--base", base_path, "--data", data, "--repeat", 0.5, "--test", test)
    code, err = cli(*command, "--out", out, *SHORT)
    assert code == 0, err
    return out


def test_a_follower_is_tested_on_no_row_of_its_training(
    follower: Path, instruction_rows: list[dict[str, str]], tmp_path: Path, cli: Cli
) -> None:
    parts = Parts.read(follower)
    assert parts is not None
    counts = parts.counts()
    assert counts["unused"] > 0
    assert counts["test"] == 20
    assert sum(counts.values()) == len(instruction_rows)
    data, test = tmp_path / "train.json", tmp_path / "test.json"
    card = json.loads((follower / "card.json").read_text())["metrics"]["test"]
    for words in (("--data", data, test), ("--data", test), ("--data", data, "--test", test)):
        found = measured(cli, tmp_path / "m.json", follower, *words)
        assert found["metrics"]["test"]["n"] == 20
        assert found["metrics"]["test"]["loss"] == pytest.approx(card["loss"], rel=1e-5)
    code, err = cli("evaluate", follower, "--data", data)
    assert code == 1
    assert "--all measures on them" in err


def test_preferences_keep_what_the_adapter_had_learnt(
    follower: Path,
    base_path: Path,
    preference_rows: list[dict[str, str]],
    tmp_path: Path,
    cli: Cli,
) -> None:
    data, out = tmp_path / "preferences.json", tmp_path / "preferred"
    data.write_text(json.dumps(preference_rows))
    command = ("dpo", "--base", base_path, "--adapter", follower, "--data", data, "--out", out)
    code, err = cli(*command, "--steps", 2, "--warmup", 0, "--eval-batches", 1)
    assert code == 0, err
    before, after = Parts.read(follower), Parts.read(out)
    assert before is not None
    assert after is not None
    for row in preference_rows:
        identity = f"{row['instruction']}\n{row['input']}"
        if before.part(identity) in ("train", "val"):
            assert after.part(identity) in ("train", "val"), identity


def test_a_checkpoint_that_does_not_know_its_rows_says_so(
    spam: Path, files: list[Path], tmp_path: Path, cli: Cli
) -> None:
    card = json.loads((spam / "card.json").read_text())
    del card["files"]["parts.json"]
    (spam / "card.json").write_text(json.dumps(card))
    (spam / "parts.json").unlink()
    code, err = cli("evaluate", spam, "--data", files[0])
    assert code == 2
    assert "was made before checkpoints knew which rows trained them" in err
    found = measured(cli, tmp_path / "m.json", spam, "--data", files[0], "--all")
    assert found["metrics"]["test_natural"]["n"] == 40


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--balance", "undersample"), "--balance"),
        (("--distinct", "near"), "--distinct"),
        (("--positive", "ham"), "--positive"),
    ],
)
def test_a_run_is_resumed_on_its_own_split_alone(
    flags: tuple[str, str], named: str, spam_file: Path, base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("classify", "--base", base_path, "--data", spam_file, "--out", tmp_path / "out")
    assert cli(*command, *SHORT)[0] == 0
    code, err = cli(*command, *SHORT, "--resume", *flags)
    assert code == 2
    assert f"--resume: {named} is" in err


def test_columns_and_repeats_belong_to_the_run(
    instruction_file: Path, base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("instruct", "--base", base_path, "--data", instruction_file)
    assert cli(*command, "--out", tmp_path / "out", *SHORT)[0] == 0
    code, err = cli(*command, "--out", tmp_path / "out", *SHORT, "--resume", "--repeat", 0.5)
    assert code == 2
    assert "--resume: --repeat is [0.5]" in err


def test_a_state_of_another_split_is_refused(
    spam_file: Path, base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    """Earlier versions put other texts into the parts."""
    command = ("classify", "--base", base_path, "--data", spam_file, "--out", tmp_path / "out")
    assert cli(*command, *SHORT)[0] == 0
    path = tmp_path / "out.run" / "state" / "last.pt"
    state = torch.load(path)
    del state["identity"]["parts"]
    torch.save(state, path)
    code, err = cli(*command, *SHORT, "--resume")
    assert code == 2
    assert "with which other texts trained" in err
