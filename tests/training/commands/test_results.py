"""Where results go is looked at before they are computed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.commands.test_targets import content
from training.commands import duplicates, evaluate, judge

Cli = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("evaluate", "--json"),
        ("evaluate", "--html"),
        ("judge", "--json"),
        ("duplicates", "--json"),
        ("duplicates", "--out"),
    ],
)
def test_results_that_cannot_be_written_are_not_computed(
    command: str,
    flag: str,
    base_path: Path,
    instruction_file: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compute(*_: Any, **__: Any) -> None:
        raise AssertionError("something was read")

    for module, name in ((evaluate, "load"), (judge, "load"), (duplicates, "read_rows")):
        monkeypatch.setattr(module, name, compute)
    data = Path(shutil.copy(instruction_file, tmp_path / "data.json"))
    (tmp_path / "folder.json").mkdir()
    words: tuple[object, ...] = ("--data", data)
    words = (command, *words) if command == "duplicates" else (command, base_path, *words)
    if command == "judge":
        words = (*words, "--judge-url", "http://localhost:1")
    before = content(tmp_path)
    for out, said in (
        (data / "y.json", "cannot be written: Not a directory"),
        (data / "deep" / "y.json", "cannot be written: Not a directory"),
        (tmp_path / ("x" * 300 + ".json"), "cannot be written: File name too long"),
        (Path("/proc/y.json"), "cannot be written: No such file or directory"),
        (data, "would replace"),
        (tmp_path / "folder.json", "is a directory; name a file"),
    ):
        if flag == "--out" and out.name == "folder.json":
            continue  # a copy may go into a directory
        code, err = cli(*words, flag, out)
        assert (code, f"{flag} {out}" in err, said in err) == (2, True, True), err
        assert len(err.strip().splitlines()) == 1
    assert content(tmp_path) == before


def test_two_results_in_one_file(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out.json"
    both = ("--data", instruction_file, "--json", out)
    for words in (("evaluate", base_path, "--html"), ("duplicates", "--out")):
        code, err = cli(*words, out, *both)
        assert (code, f"{out}" in err) == (2, True), err
    assert not out.exists()
