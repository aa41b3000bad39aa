"""`penwright-train evaluate`: what it measures, says and writes for each kind of checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import Base, load_base, save_base
from training.cli import main
from training.data.documents import documents, file_sha256, hash_fraction
from training.data.instructions import load_instructions
from training.measure.yardstick import yardstick

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"paradigm": f"p{i % 5}", "good": f"mother is home {i}", "bad": "win"} for i in range(9)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def spam_path(base_path: Path, spam_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier on a copy of the base, with its run beside it."""
    models = tmp_path_factory.mktemp("set")
    shutil.copytree(base_path, models / "base")
    out = models / "spam"
    command = ["classify", "--base", models / "base", "--data", spam_file, "--out", out]
    assert main([*map(str, command), "--steps", "3", "--warmup", "0", "--batch-size", "4"]) == 0
    return out


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_base_on_text_and_pairs(
    base_path: Path, text_file: Path, pairs_file: Path, tmp_path: Path, cli: Cli
) -> None:
    code, err = cli(
        *("evaluate", base_path, "--data", text_file, "--blimp", pairs_file),
        *("--prompt", "the bus", "--json", tmp_path / "m.json", "--html", tmp_path / "m.html"),
    )
    assert code == 0, err
    found = read(tmp_path / "m.json")
    assert list(found["metrics"]) == [text_file.name, "blimp"]
    assert found["metrics"][text_file.name]["documents"] == 40
    assert found["metrics"]["blimp"]["n"] == 9
    assert len(found["metrics"]["blimp"]["paradigms"]) == 5
    assert found["data"] == [
        {"file": path.name, "sha256": file_sha256(path)} for path in (text_file, pairs_file)
    ]
    assert found["checkpoint"]["id"] == load_base(base_path).id
    assert found["command"].split()[0] == "penwright-train"
    assert found["machine"]["threads"] == 1
    assert found["machine"]["cpu"]
    assert set(found["methods"]) == {"text", "blimp", "intervals"}
    (samples,) = found["samples"].values()
    assert samples[0]["prompt"] == "the bus"
    page = (tmp_path / "m.html").read_text()
    assert page.count("<picture>") == 1  # the paradigms
    assert "bits per byte" in page


def test_a_classifier_with_its_curves(
    spam_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    outputs = ("--json", tmp_path / "m.json", "--html", tmp_path / "m.html")
    code, err = cli("evaluate", spam_path, "--data", spam_file, *outputs)
    assert code == 0, err
    found = read(tmp_path / "m.json")
    card = read(spam_path / "card.json")
    assert found["data"] == card["data"]["files"]
    assert found["checkpoint"]["base"]["id"] == card["base"]["sha256"]
    curves = found["curves"]["test_natural"]
    assert list(curves["roc"]) == ["spam"]
    natural = found["metrics"]["test_natural"]
    assert sum(row["n"] for row in curves["reliability"]) == natural["n"]
    (wrong,) = found["samples"].values()
    counts = natural["confusion"]["counts"]
    assert len(wrong) == min(20, counts[0][1] + counts[1][0])
    page = (tmp_path / "m.html").read_text()
    assert page.count("<picture>") == 2 + 3 + 1  # two confusions, curves, and the run's loss
    assert "loss over the steps" in page


def test_a_model_set_gives_each_model_its_data(
    spam_path: Path, spam_file: Path, text_file: Path, pairs_file: Path, tmp_path: Path, cli: Cli
) -> None:
    models = spam_path.parent
    tasks = {"format_version": 1, "generate": "base", "classify": "spam"}
    (models / "models.json").write_text(json.dumps(tasks))
    outputs = ("--json", tmp_path / "m.json", "--html", tmp_path / "m.html")
    code, err = cli("evaluate", models, "--data", text_file, spam_file, *outputs)
    assert code == 0, err
    found = read(tmp_path / "m.json")["models"]
    assert list(found) == ["base", "spam"]
    assert list(found["base"]["metrics"]) == [text_file.name]
    assert list(found["spam"]["metrics"]) == ["test_natural", "test_balanced"]
    assert (tmp_path / "m.html").read_text().count("<h2>") == 2 + 1
    code, err = cli("evaluate", models, "--blimp", pairs_file, "--json", tmp_path / "m.json")
    assert code == 0, err
    found = read(tmp_path / "m.json")["models"]
    assert list(found["base"]["metrics"]) == ["blimp"]
    assert found["spam"]["metrics"] == read(spam_path / "card.json")["metrics"]
    tasks.pop("classify")
    (models / "models.json").write_text(json.dumps(tasks))
    code, err = cli("evaluate", models, "--data", spam_file)
    assert (code, "is for classify, which no model of" in err) == (1, True), err


def test_held_out_documents_are_those_that_training_left_out(
    base: Base, text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    chosen = [d for d in documents(text_file.read_text()) if hash_fraction(d) < 0.2]
    assert 0 < len(chosen) < 40
    other = tmp_path / "repeated.txt"
    other.write_text("\n<|endoftext|>\n".join([text_file.read_text(), chosen[0].upper()]))
    path = tmp_path / "trained"
    card = {"data": {"split": {"val_fraction": 0.2}}}
    save_base(path, base.model, base.tokenizer, card=card)
    command = ("evaluate", path, "--data", other, "--held-out", "--json", tmp_path / "m.json")
    code, err = cli(*command)
    assert code == 0, err
    found = read(tmp_path / "m.json")
    assert found["metrics"][other.name]["documents"] == len(chosen)
    assert "below 0.2" in found["methods"]["held out"]
    code, err = cli(*command, "--val-fraction", 0.1)
    assert code == 0, err
    fewer = [d for d in chosen if hash_fraction(d) < 0.1]
    assert read(tmp_path / "m.json")["metrics"][other.name]["documents"] == len(fewer)
    code, err = cli(*command, "--val-fraction", 0.5)
    assert (code, "was trained on all documents but 0.2 of them" in err) == (2, True), err


def test_a_yardstick_measures_like_the_command(
    base: Base, base_path: Path, text_file: Path, pairs_file: Path, tmp_path: Path, cli: Cli
) -> None:
    """What a pretraining puts on a card is what `evaluate` finds later."""
    found = yardstick([text_file], pairs_file).measure(base.model, base.tokenizer)
    command = ("evaluate", base_path, "--data", text_file, "--blimp", pairs_file)
    assert cli(*command, "--json", tmp_path / "m.json")[0] == 0
    assert json.loads(json.dumps(found)) == read(tmp_path / "m.json")["metrics"]


def test_bad_flags_are_named(
    base_path: Path, spam_path: Path, text_file: Path, pairs_file: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    for code, message, argv in (
        (2, "--blimp is for a base", (spam_path, "--blimp", pairs_file)),
        (2, "--held-out is for a base", (spam_path, "--data", text_file, "--held-out")),
        (2, "--val-fraction is for --held-out", (base_path, "--val-fraction", 0.1)),
        (2, "--val-fraction is 2.0", (base_path, "--held-out", "--val-fraction", 2)),
        (2, "--val-fraction is missing", (base_path, "--data", text_file, "--held-out")),
        (2, "is a directory; name a file", (base_path, "--json", tmp_path)),
        (2, "--threads is -1", (base_path, "--threads", -1)),
        (1, "empty.jsonl: is empty", (base_path, "--blimp", tmp_path / "empty.jsonl")),
        (1, "pairs.jsonl: cannot be read", (base_path, "--blimp", tmp_path / "no" / "pairs.jsonl")),
        (
            1,
            "none of its documents is held out",
            (base_path, "--data", text_file, "--held-out", "--val-fraction", 1e-9),
        ),
    ):
        found, err = cli("evaluate", *argv)
        assert found == code, err
        assert message in err
        assert len(err.strip().splitlines()) == 1, err


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    base_path: Path, text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "file").write_text("old")
    code, err = cli("evaluate", base_path, "--data", text_file, "--html", tmp_path / "file" / "m")
    assert (code, "m cannot be written: Not a directory" in err) == (2, True), err
    assert (tmp_path / "file").read_text() == "old"


def test_all_rows_of_other_data(
    spam_path: Path, spam_rows: list[tuple[str, str]], tmp_path: Path, cli: Cli
) -> None:
    other = tmp_path / "other.csv"
    lines = [f'{label},"{text}"' for label, text in [*spam_rows, spam_rows[0]]]
    other.write_text("\n".join(["kind,message", *lines]))
    command = ("evaluate", spam_path, "--data", other, "--label-column", "kind")
    command = (*command, "--text-column", "message", "--json", tmp_path / "m.json")
    assert cli(*command)[0] == 0
    part = read(tmp_path / "m.json")
    assert part["metrics"]["test_natural"]["n"] == 18
    assert "18 rows: 18 of its test part and 0 that" in part["methods"]["rows"]
    assert cli(*command, "--all")[0] == 0
    whole = read(tmp_path / "m.json")
    assert whole["metrics"]["test_natural"]["n"] == len(spam_rows)
    assert "of which 72 trained the checkpoint or validated it" in whole["methods"]["rows"]


def test_instructions_by_kind(
    base: Base, instruction_rows: list[dict[str, str]], tmp_path: Path, cli: Cli
) -> None:
    """A whole checkpoint for instructions, on the test part and on all rows."""
    path, data = tmp_path / "follower", tmp_path / "rows.json"
    rows = [{**row, "kind": f"kind {i % 4}"} for i, row in enumerate(instruction_rows)]
    data.write_text(json.dumps([*rows, rows[0]]))
    parts = load_instructions([data]).parts().content()
    save_base(path, base.model, base.tokenizer, card={}, task="instruct", parts=parts)
    outputs = ("--json", tmp_path / "m.json", "--html", tmp_path / "m.html")
    code, err = cli("evaluate", path, "--data", data, *outputs)
    assert code == 0, err
    part = read(tmp_path / "m.json")["metrics"]["test"]
    assert part["n"] < 40
    code, err = cli("evaluate", path, "--data", data, "--all", *outputs)
    assert code == 0, err
    found = read(tmp_path / "m.json")
    assert found["metrics"]["test"]["n"] == len(rows)
    assert found["data"] == [{"file": data.name, "sha256": file_sha256(data), "rows": 81}]
    assert len(found["samples"]["answers"]) == 20
    page = (tmp_path / "m.html").read_text()
    assert "kind 3" in page
    assert page.count("<picture>") == 1  # the kinds
