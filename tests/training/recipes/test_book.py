"""The recipes of the book's results, run as they stand on small data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(recipe: str, work: Path, *words: object, **variables: object) -> None:
    program = work / "penwright-train"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m training.cli "$@"\n')
    program.chmod(0o755)
    given = {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        [ROOT / "training/recipes" / recipe, *map(str, words)],
        env={**os.environ, "BIN": str(work), "PYTHONPATH": str(ROOT), **given},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("recipe", "method", "learns"),
    [
        # 2 layers, 32 wide: the last block, the last norm and the head.
        ("spam.sh", "last-block", 12 * 32 * 32 + 13 * 32 + 2 * 32 + 2 * 32 + 2),
        # Rank 16: in and out of each projection of both layers, and the head.
        ("lora.sh", "lora", 2 * 16 * 32 * (4 + 2 + 5 + 5) + 2 * 32 + 2),
    ],
)
def test_a_recipe_runs_on_any_base(
    recipe: str, method: str, learns: int, base_path: Path, spam_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (base_path, out, "--epochs", 3, "--warmup", 2)
    run(recipe, tmp_path, *words, MESSAGES=spam_file)
    card = json.loads((out / "card.json").read_text())
    assert card["method"] == method
    assert card["trained_parameters"] == learns
    assert card["settings"]["epochs"] == 3
    assert card["data"]["split"]["counts"]["train"] == {"ham": 19, "spam": 19}
    for part, n in (("train", 38), ("validation", 6)):
        assert card["metrics"][part]["accuracy"]["n"] == n
    assert card["metrics"]["test_natural"]["confusion"]["labels"] == ["ham", "spam"]


def test_the_recipe_of_instructions_measures_what_it_trained(
    base_path: Path, instruction_file: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data" / "instructions" / "instruction-data.json"
    data.parent.mkdir(parents=True)
    data.write_bytes(instruction_file.read_bytes())
    out = tmp_path / "out"
    run("instructions.sh", tmp_path, base_path, out, PENWRIGHT_DATA=tmp_path / "data")
    card = json.loads((out / "card.json").read_text())
    assert (card["method"], card["settings"]["epochs"]) == ("full", 2)
    assert card["command"].startswith("penwright-train instruct --base ")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_recipe_of_the_first_pretraining(
    optimizer: str, text_file: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    small = ("--preset", "tiny", "--context", 32, "--epochs", 0.5, "--batch-size", 8)
    files = {"VERDICT": text_file, "TOKENIZER": tokenizer_file, "OPTIMIZER": optimizer}
    run("the-verdict.sh", tmp_path, out, *small, **files)
    card = json.loads((out / "card.json").read_text())
    assert card["settings"]["optimizer"] == optimizer
