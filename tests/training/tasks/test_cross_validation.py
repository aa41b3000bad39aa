"""Folds, extra texts, and cross-validation beside a baseline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from model.classifier import Labels
from model.errors import DataError
from training.data.folds import ExtraTexts, fold
from training.data.labelled import Example, Reading
from training.data.labelled_parts import read_distinct, split
from training.data.splits import near_hash
from training.measure.baseline import ngram_baseline, paired_difference
from training.tasks import cross_validation

Cli = Callable[..., tuple[int, str]]
Row = tuple[str, str]
LABELS = Labels(("ham", "spam"), positive="spam")
SHORT = ("--steps", 4, "--warmup", 1, "--batch-size", 4, "--eval-every", 4, "--lr", 0.01)


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    return path


def test_folds_test_every_text_once(spam_file: Path) -> None:
    distinct = read_distinct([spam_file])
    everything = {e.example.text for entries in distinct.entries.values() for e in entries}
    tested: list[str] = []
    for index in range(5):
        data = fold(distinct, index, 5)
        parts = [{e.text for e in part} for part in (data.train, data.val, data.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(everything)
        assert data.counts()["test"] == {"ham": 12, "spam": 6}
        assert data.counts()["val"] == {"ham": 6, "spam": 3}
        tested += [e.text for e in data.test]
    assert sorted(tested) == sorted(everything)


def test_texts_that_differ_in_digits_are_in_one_fold(tmp_path: Path, spam_rows: list[Row]) -> None:
    rows = [(label, f"{text} {number}") for label, text in spam_rows for number in (11, 22)]
    distinct = read_distinct([write(tmp_path / "a.tsv", rows)])
    for index in range(4):
        data = fold(distinct, index, 4)
        parts = [{near_hash(e.text) for e in p} for p in (data.train, data.val, data.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(spam_rows)


def test_extra_texts_are_none_of_the_data(tmp_path: Path, spam_file: Path) -> None:
    data = split(read_distinct([spam_file]))
    tested, trained = data.test[0], data.train[0]
    rows = [
        (tested.label, tested.text.upper() + "!!"),
        (trained.label, trained.text),
        ("spam", "a new one 1"),
        ("spam", "A new one 2."),
        ("ham", "and another"),
    ]
    path = write(tmp_path / "extra.tsv", rows)
    extra = ExtraTexts([path], data.labels, Reading())
    assert [e.text for e in extra.beside(data)] == ["a new one 1", "and another"]
    assert extra.sources[0]["rows"] == 5
    write(path, [("ham", "hello"), ("eggs", "hello you")])
    with pytest.raises(DataError, match=r"extra\.tsv: label 'eggs' is unseen in --data, which has"):
        ExtraTexts([path], data.labels, Reading())


def test_extra_texts_are_trained_on_and_nothing_else(
    tmp_path: Path, spam_file: Path, base_path: Path, cli: Cli
) -> None:
    extra = write(tmp_path / "extra.tsv", [("spam", f"buy {word}") for word in "abcde"])
    command = ("classify", "--base", base_path, "--data", spam_file, *SHORT)
    code, err = cli(*command, "--extra", extra, "--out", tmp_path / "out")
    assert code == 0, err
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["data"]["extra"]["texts"] == 5
    assert card["metrics"]["train"]["accuracy"]["n"] == 65 + 5
    assert card["metrics"]["validation"]["accuracy"]["n"] == 7
    assert card["metrics"]["test_natural"]["n"] == 18
    assert card["data"]["split"]["counts"]["train"] == {"ham": 46, "spam": 19}


def test_the_baseline_tells_words_apart(spam_file: Path) -> None:
    data = split(read_distinct([spam_file]))
    found = ngram_baseline(data.train, data.val, data.test, LABELS)
    truth = np.array([LABELS.names.index(e.label) for e in data.test])
    assert (found.decided == truth).mean() > 0.9
    assert found.scores.shape == (18, 2)
    assert (found.scores.argmax(axis=1) == found.decided).all()
    # With three labels the margins have a column each.
    third = [Example("eggs", e.text[::-1]) for e in data.train]
    three = Labels(("eggs", "ham", "spam"))
    train = [*data.train, *third]
    assert ngram_baseline(train, train, data.test, three).scores.shape == (18, 3)


def test_the_paired_difference_is_that_of_the_decisions() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(500) < 0.3).astype(int)
    one = np.where(rng.random(500) < 0.05, 1 - truth, truth)
    other = np.where(rng.random(500) < 0.15, 1 - truth, truth)
    found = paired_difference(LABELS, truth, one, other)
    assert found["accuracy"]["value"] == pytest.approx(
        (one == truth).mean() - (other == truth).mean()
    )
    assert found["f1"]["value"] == pytest.approx(f1_score(truth, one) - f1_score(truth, other))
    for name in ("accuracy", "f1"):
        low, high = found[name]["interval"]
        assert 0 < low < found[name]["value"] < high
    # The standard error of a paired difference, n discordant texts aside.
    gain = (one == truth).astype(int) - (other == truth)
    low, high = found["accuracy"]["interval"]
    assert (high - low) / 2 == pytest.approx(1.96 * gain.std() / 500**0.5, rel=0.1)
    same = paired_difference(LABELS, truth, one, one)
    assert same["f1"] == {"value": 0.0, "n": 500, "interval": [0.0, 0.0]}
    assert same == paired_difference(LABELS, truth, one, one)


def test_the_paired_difference_of_more_labels_is_a_mean() -> None:
    rng = np.random.default_rng(1)
    truth, one, other = rng.integers(0, 3, (3, 200))
    found = paired_difference(Labels(("a", "b", "c")), truth, one, other)["f1"]["value"]
    macro = [f1_score(truth, decided, average="macro") for decided in (one, other)]
    assert found == pytest.approx(macro[0] - macro[1])


@pytest.fixture
def command(spam_file: Path, base_path: Path, tmp_path: Path) -> tuple[Any, ...]:
    flags = ("--base", base_path, "--data", spam_file, "--out", tmp_path / "out", "--folds", 3)
    return ("classify", *flags, "--lora-rank", 2, *SHORT)


def test_folds_are_measured_together_and_stand_on_the_card(
    command: tuple[Any, ...], tmp_path: Path, cli: Cli
) -> None:
    code, err = cli(*command)
    assert code == 0, err
    written = json.loads((tmp_path / "out.run" / "folds.json").read_text())
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["metrics"]["cross_validation"] == written
    assert written["classifier"]["n"] == written["baseline"]["n"] == 90
    assert written["difference"]["accuracy"]["value"] == pytest.approx(
        written["classifier"]["accuracy"]["value"] - written["baseline"]["accuracy"]["value"]
    )
    assert sum(each["n"] for each in written["each"]) == 90
    hits = sum(each["n"] * each["accuracy"] for each in written["each"])
    assert written["classifier"]["accuracy"]["value"] == pytest.approx(hits / 90)
    assert "15 bins" in written["classifier"]["calibration_error"]["binning"]


def test_a_fold_that_is_done_is_not_trained_again(
    command: tuple[Any, ...], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*command)[0] == 0
    folds = tmp_path / "out.run" / "folds.json"
    whole = folds.read_text()
    (tmp_path / "out.run" / "fold-2" / "result.json").unlink()
    (tmp_path / "out.run" / "fold-3" / "result.json").unlink()
    (tmp_path / "out.run" / "fold-3" / "state" / "last.pt").unlink()
    trained: list[str] = []
    original = cross_validation.ngram_baseline

    def counting(*args: Any) -> Any:
        trained.append("once")
        return original(*args)

    monkeypatch.setattr(cross_validation, "ngram_baseline", counting)
    code, err = cli(*command, "--resume")
    assert code == 0, err
    assert len(trained) == 2
    assert folds.read_text() == whole
    code, err = cli(*command, "--resume", "--lm-weight", 0.5)
    assert code == 2
    assert "--lm-weight is 0.5, but the saved run has 0.0" in err


@pytest.mark.parametrize(
    ("folds", "rare", "code", "message"),
    [
        (1, 9, 2, "--folds is 1; it must be 0 (none), or from 2 to 10"),
        (11, 9, 2, "--folds is 11"),
        (5, 6, 1, "label 'rare' has 6 distinct texts; with --folds 5 it must have at least 7"),
    ],
)
def test_bad_folds(
    folds: int,
    rare: int,
    code: int,
    message: str,
    spam_rows: list[Row],
    base_path: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    words = ["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh", "ii"][:rare]
    data = write(tmp_path / "a.tsv", [*spam_rows, *(("rare", word) for word in words)])
    flags = ("--base", base_path, "--data", data, "--out", tmp_path / "out", "--folds", folds)
    found, err = cli("classify", *flags, *SHORT)
    assert found == code
    assert message in err
    assert not (tmp_path / "out").exists()
