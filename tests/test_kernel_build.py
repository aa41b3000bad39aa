"""The C kernel is compiled where there is a compiler, and only missing where there is none."""

import ctypes
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

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
    """A copy of the kernel's source, with a library that an older source gave."""
    (tmp_path / build.SOURCE).parent.mkdir(parents=True)
    shutil.copy(ROOT / build.SOURCE, tmp_path / build.SOURCE)
    (tmp_path / build.LIBRARY).write_bytes(b"old")
    return tmp_path


def test_it_compiles(build: Any, tree: Path) -> None:
    if not shutil.which("cc") and not shutil.which("gcc"):
        pytest.skip("there is no C compiler")
    assert build.compile_kernels(tree) is None
    assert ctypes.CDLL(str(tree / build.LIBRARY)).int8_version() == 1
    files = {file.name for file in (tree / build.LIBRARY).parent.iterdir()}
    assert files == {build.SOURCE.name, build.LIBRARY.name}


@pytest.mark.parametrize("compiler", ["/bin/false", "/no/such/compiler"])
def test_without_a_compiler_the_old_library_goes(
    build: Any, tree: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    problem = build.compile_kernels(tree)
    assert compiler in problem
    assert [file.name for file in (tree / build.SOURCE).parent.iterdir()] == [build.SOURCE.name]


def test_the_installed_library_is_of_this_source(build: Any) -> None:
    """Whoever changes int8.c installs again, or tests something else than what he wrote."""
    library = ROOT / build.LIBRARY
    if not library.is_file():
        pytest.skip("the C kernel was not compiled when the package was installed")
    assert library.stat().st_mtime >= (ROOT / build.SOURCE).stat().st_mtime
