"""The C kernel is compiled where there is a compiler, and only missing where there is none."""

import ctypes
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from model.cpu import library

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`hatch_build`, which is a file of the project and in no package."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import hatch_build

    return hatch_build


@pytest.fixture
def tree(build: Any, tmp_path: Path) -> Path:
    """A copy of the kernels' sources, with a library that an older source gave."""
    (tmp_path / build.DIRECTORY).mkdir(parents=True)
    for source in sources(ROOT / build.DIRECTORY):
        shutil.copy(source, tmp_path / build.DIRECTORY)
    (tmp_path / build.LIBRARY).write_bytes(b"old")
    return tmp_path


def sources(directory: Path) -> list[Path]:
    return sorted([*directory.glob("*.c"), *directory.glob("*.h")])


def test_it_compiles(build: Any, tree: Path) -> None:
    if not shutil.which("cc") and not shutil.which("gcc"):
        pytest.skip("there is no C compiler")
    assert build.compile_kernels(tree) is None
    assert ctypes.CDLL(str(tree / build.LIBRARY)).int8_version() == library._VERSION
    files = set((tree / build.DIRECTORY).iterdir())
    assert files == {*sources(tree / build.DIRECTORY), tree / build.LIBRARY}


@pytest.mark.parametrize("compiler", ["/bin/false", "/no/such/compiler"])
def test_without_a_compiler_the_old_library_goes(
    build: Any, tree: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    problem = build.compile_kernels(tree)
    assert compiler in problem
    assert sorted((tree / build.DIRECTORY).iterdir()) == sources(tree / build.DIRECTORY)


def test_the_installed_library_is_of_this_source(build: Any) -> None:
    """Whoever changes a kernel installs again, or tests something else than what he wrote."""
    library = ROOT / build.LIBRARY
    if not library.is_file():
        pytest.skip("the C kernel was not compiled when the package was installed")
    for source in sources(ROOT / build.DIRECTORY):
        assert library.stat().st_mtime >= source.stat().st_mtime, source.name
