"""What a run that goes on must share with the one that was saved."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str]]
SHORT = ("--steps", 2, "--warmup", 1, "--batch-size", 4, "--eval-every", 2)


@pytest.mark.parametrize("base_path", ["modern"], indirect=True)
def test_a_base_is_known_by_its_weights(
    base_path: Path, spam_file: Path, text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    """A run goes on with the same weights, whatever they are read from and whatever is said of
    them; not with others."""
    raw, imported, noted = tmp_path / "raw.gguf", tmp_path / "imported", tmp_path / "noted"
    for words in (
        ("export", base_path, "--format", "gguf", "--out", raw),
        ("import", raw, "--out", imported),
        ("import", raw, "--out", noted, "--licence", "MIT"),
    ):
        code, err = cli(*words)
        assert code == 0, err
    others = tmp_path / "others"
    flags = ("--base", imported, "--data", text_file, "--lr", 0.1, "--out", others)
    assert cli("pretrain", *flags, *SHORT)[0] == 0
    runs: dict[str, tuple[object, ...]] = {
        "classify": ("--data", spam_file),
        "pretrain": ("--data", text_file),
    }
    for command, data in runs.items():
        out = tmp_path / command
        code, err = cli(command, "--base", raw, *data, *SHORT, "--out", out)
        assert code == 0, err
        shutil.rmtree(out)
        for base in (imported, noted, raw):
            code, err = cli(command, "--base", base, *data, *SHORT, "--out", out, "--resume")
            assert code == 0, err
        code, err = cli(command, "--base", others, *data, *SHORT, "--out", out, "--resume")
        assert (code, "--resume: --base is " in err) == (2, True), err
