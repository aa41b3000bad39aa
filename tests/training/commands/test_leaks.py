"""No row that trained a checkpoint, or validated it, is in its test, whatever files are named."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data.preferences import load_preferences
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
    parts = Parts.known(spam)
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
    assert "0 of its test part and 3 that it has not met" in found["methods"]["rows"]
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
    parts = Parts.known(follower)
    counts = Counter(parts.of.values())
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
    assert "evaluate --all and judge --rows all measure on them" in err


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
    before, after = Parts.known(follower), Parts.known(out)
    identities = [f"{row['instruction']}\n{row['input']}" for row in preference_rows]
    assert not any(before.gives_away(i) and after.part(i) == "test" for i in identities)
    # What is on the card was measured on these alone.
    tested = sum(after.part(identity) == "test" for identity in identities)
    card = json.loads((out / "card.json").read_text())
    assert card["metrics"]["test"]["n"] == tested > 0
    # The hashes alone would have had more.
    alone = load_preferences([data])
    assert len(alone.test) > sum(not before.gives_away(r.question.identity) for r in alone.test)


def test_a_checkpoint_that_does_not_know_its_rows_says_so(
    spam: Path, files: list[Path], tmp_path: Path, cli: Cli
) -> None:
    card = json.loads((spam / "card.json").read_text())
    del card["files"]["parts.json"]
    (spam / "card.json").write_text(json.dumps(card))
    (spam / "parts.json").unlink()
    code, err = cli("evaluate", spam, "--data", files[0])
    assert code == 2
    assert "was made before checkpoints knew which rows trained them" in err.replace("\n", " ")
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


def test_columns_repeats_and_tests_belong_to_the_run(
    spam_rows: list[Row], instruction_file: Path, base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{label},{text},{text[::-1]}" for label, text in spam_rows]
    table.write_text("\n".join(["label,text,other", *lines]))
    command = ("classify", "--base", base_path, "--data", table, "--out", tmp_path / "spam")
    assert cli(*command, *SHORT)[0] == 0
    code, err = cli(*command, *SHORT, "--resume", "--text-column", "other")
    assert (code, "--resume: --text-column is other" in err) == (2, True), err
    command = ("instruct", "--base", base_path, "--data", instruction_file)
    assert cli(*command, "--out", tmp_path / "out", *SHORT)[0] == 0
    code, err = cli(*command, "--out", tmp_path / "out", *SHORT, "--resume", "--repeat", 0.5)
    assert code == 2
    assert "--resume: --repeat is [0.5]" in err
    code, err = cli(
        *(*command, "--out", tmp_path / "out", *SHORT, "--resume", "--test", instruction_file)
    )
    assert code == 2
    assert "--resume: --test is ['instructions.json']" in err


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


def tuned(cli: Cli, *command: object) -> None:
    code, err = cli(*command, "--method", "full", *SHORT)
    assert code == 0, err


def test_what_a_base_has_learnt_is_not_tested_by_what_is_tuned_on_it(
    files: list[Path], base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    """Nor by the folds of its cross-validation, nor after a pretraining in between."""
    first, again, second = (tmp_path / name for name in ("first", "again", "second"))
    tuned(cli, "classify", "--base", base_path, "--data", *files[:2], "--out", first)
    learnt = Parts.known(first)
    text = tmp_path / "text.txt"
    text.write_text("The bus is late. " * 80)
    command = ("pretrain", "--base", first, "--data", text, "--context", 16, "--out", again)
    code, err = cli(*command, "--steps", 1, "--eval-batches", 1, "--sample-every", 0)
    assert code == 0, err
    assert Parts.known(again) == learnt
    new = write(tmp_path / "new.tsv", [(f"{i % 2}", f"quite new {'x' * i}") for i in range(90)])
    spam = [(str(i % 2), text) for i, text in enumerate(texts(files[0]))]
    mixed = write(tmp_path / "mixed.tsv", spam)
    command = ("classify", "--base", again, "--data", new, mixed, "--out", second, "--folds", 2)
    code, err = cli(*command, *SHORT)
    assert code == 0, err
    card = json.loads((second / "card.json").read_text())
    parts = Parts.known(second)
    everything = [*texts(new), *texts(mixed)]
    tested = [text for text in everything if parts.part(text) == "test"]
    assert len(tested) == card["metrics"]["test_natural"]["n"]
    assert not any(learnt.gives_away(text) for text in everything if parts.part(text) == "test")
    folds = card["metrics"]["cross_validation"]["classifier"]["n"]
    assert folds == sum(not learnt.gives_away(text) for text in everything)


def test_a_label_that_the_base_has_learnt_whole_is_named(
    files: list[Path], base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    first = tmp_path / "first"
    command = ("classify", "--base", base_path, "--data", files[0], "--extra", files[1])
    tuned(cli, *command, "--out", first)
    code, err = cli("classify", "--base", first, "--data", files[1], "--out", tmp_path / "o")
    assert code == 1
    assert "--base was trained on all texts of 'ham' that the" in err


def test_two_checkpoints_are_measured_on_what_trained_neither(
    spam: Path, files: list[Path], base_path: Path, tmp_path: Path, cli: Cli
) -> None:
    other = tmp_path / "other"
    command = ("classify", "--base", base_path, "--data", files[2], files[0], "--out", other)
    assert cli(*command, *SHORT)[0] == 0
    one, two = Parts.known(spam), Parts.known(other)
    rows = [text for file in files for text in texts(file)]
    free = [text for text in rows if not (one.gives_away(text) or two.gives_away(text))]
    free = [text for text in free if "unused" not in (one.part(text), two.part(text))]
    for first, second in ((spam, other), (other, spam)):
        words = (first, "--parts-of", second, "--data", *files)
        found = measured(cli, tmp_path / "m.json", *words)
        assert found["metrics"]["test_natural"]["n"] == len(free)
    code, err = cli("evaluate", spam, "--data", files[0], "--parts-of", tmp_path / "none")
    assert (code, "no such checkpoint directory" in err) == (1, True)


def test_text_that_was_cut_is_not_held_out(
    base_path: Path, tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single document gives its beginning to the training, whatever its hash."""
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("The bus is late. " * 80)
    short = ("--context", 16, "--steps", 1, "--eval-batches", 1, "--sample-every", 0)
    command = ("pretrain", "--base", base_path, "--data", text, *short)
    assert cli(*command, "--out", out)[0] == 0
    code, err = cli("evaluate", out, "--data", text, "--held-out")
    assert (code, "each was cut and its beginning learnt" in err) == (2, True), err


def test_documents_stay_held_out_through_every_training(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    text = tmp_path / "text.txt"
    sentences = [f"The bus {'is late ' * (1 + i % 3)}for the {i}th time." for i in range(300)]
    text.write_text("\n<|endoftext|>\n".join(sentences))
    short = ("--context", 16, "--steps", 1, "--eval-batches", 1, "--sample-every", 0)
    names = [tmp_path / name for name in ("first", "follower", "second", "third")]
    command = ("pretrain", "--data", text, *short)
    code, err = cli(*command, "--base", base_path, "--out", names[0], "--val-fraction", 0.2)
    assert code == 0, err
    tuned(cli, "instruct", "--base", names[0], "--data", instruction_file, "--out", names[1])
    code, err = cli(*command, "--base", names[1], "--out", names[2], "--val-fraction", 0.4)
    assert code == 2
    assert "left out 0.2 of it" in err
    code, err = cli(*command, "--base", names[1], "--out", names[3], "--val-fraction", 0.1)
    assert code == 0, err
    code, err = cli("evaluate", names[3], "--data", text, "--held-out", "--val-fraction", 0.2)
    assert (code, "give at most that" in err) == (2, True), err
    code, err = cli("evaluate", names[3], "--data", text, "--held-out")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--balance", "undersample"), "--balance is for `classify`"),
        (("--test", "more.tsv"), "--test is for a follower of instructions"),
    ],
)
def test_flags_that_say_nothing_are_refused(
    words: tuple[str, str], named: str, spam: Path, files: list[Path], cli: Cli
) -> None:
    code, err = cli("evaluate", spam, "--data", files[0], *words)
    assert code == 2
    assert named in err
