"""The recipes of the book's two classifiers, run as they stand on a small base."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


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
    program = tmp_path / "penwright-train"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m training.cli "$@"\n')
    program.chmod(0o755)
    out = tmp_path / "out"
    subprocess.run(
        [ROOT / "training/recipes" / recipe, base_path, out, "--epochs", "3", "--warmup", "2"],
        env={
            **os.environ,
            "BIN": str(tmp_path),
            "MESSAGES": str(spam_file),
            "PYTHONPATH": str(ROOT),
        },
        check=True,
        capture_output=True,
        timeout=250,
    )
    card = json.loads((out / "card.json").read_text())
    assert card["method"] == method
    assert card["trained_parameters"] == learns
    assert card["settings"]["epochs"] == 3
    assert card["data"]["split"]["counts"]["train"] == {"ham": 19, "spam": 19}
    for part, n in (("train", 38), ("validation", 6)):
        assert card["metrics"][part]["accuracy"]["n"] == n
    assert card["metrics"]["test_natural"]["confusion"]["labels"] == ["ham", "spam"]
