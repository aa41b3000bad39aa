"""Writes that are whole or not at all."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import atomic
from model.atomic import new_directory, write_file
from model.errors import PenwrightError


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to replace a directory: with and without the system call for it."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *args, **options: object())


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("umask")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"x")
    with new_directory(tmp_path / "directory"):
        pass
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o750


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PenwrightError, match=f"{path}: cannot be written: No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(PenwrightError, match="cannot be written"):
        write_file(tmp_path / "file" / "below", b"y")


@pytest.mark.usefixtures("way")
def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for content in ("first", "second"):
        with new_directory(path) as directory:
            (directory / content).write_text(content)
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_crash_within_leaves_the_old_directory(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "checkpoint"
    with new_directory(path) as directory:
        (directory / "file").write_text("old")

    def crash() -> None:
        with new_directory(path) as directory:
            (directory / "file").write_text("new, half")
            assert (path / "file").read_text() == "old", "a reader must still see the old one"
            raise error

    with pytest.raises(error):
        crash()
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with new_directory(path) as directory:
        (directory / "file").write_text("old")

    def fill() -> None:
        with new_directory(path):
            raise OSError(28, "No space left on device")

    with pytest.raises(PenwrightError, match=f"{path}: cannot be written: No space left"):
        fill()
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_before_the_first_leaves_nothing(tmp_path: Path) -> None:
    def crash() -> None:
        with new_directory(tmp_path / "checkpoint"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert list(tmp_path.iterdir()) == []
