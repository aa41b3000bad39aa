"""Writes that are whole or not at all."""

import errno
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import atomic
from model.checkpoint.atomic import (
    is_unfinished,
    new_directory,
    new_file,
    try_writing,
    write_file,
)
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
        without_exchange(monkeypatch)


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *args, **options: object())


def failing_at(
    calls: set[int], error: BaseException, function: Callable[..., Any]
) -> Callable[..., Any]:
    """`function`, whose calls with these numbers, counted from 1, raise `error`."""
    count = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count in calls:
            raise error
        return function(*args, **options)

    return call


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
    for path in (tmp_path / "file" / "below", tmp_path / "file" / "deep" / "below"):
        with pytest.raises(PenwrightError, match="cannot be written: Not a directory"):
            write_file(path, b"y")
        with (
            pytest.raises(PenwrightError, match="cannot be written: Not a directory"),
            new_directory(path),
        ):
            pass


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(PenwrightError, match="cannot be written: Is a directory"):
        write_file(tmp_path, b"y")


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


class TestInPlace:
    """Directories that keep their place: mount points, and those whose parent is not writable."""

    @pytest.fixture(params=["a mount point", "as the kernel says", "within a parent"])
    def path(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Path]:
        path = tmp_path / "mounted"
        path.mkdir()
        if request.param == "a mount point":
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "tmpfs", str(path)], capture_output=True, text=True
            )
            if mounted.returncode:
                pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
        elif request.param == "as the kernel says":  # of a mount from the same file system
            without_exchange(monkeypatch)
            monkeypatch.setattr(os, "rename", busy(path))
        else:
            make = tempfile.mkdtemp
            monkeypatch.setattr(tempfile, "mkdtemp", refusing(tmp_path, make))
        yield path
        if request.param == "a mount point":
            subprocess.run(["umount", str(path)], check=True)

    @staticmethod
    def publish(path: Path, *names: str) -> None:
        with new_directory(path, last="card") as directory:
            for name in (*names, "card"):
                (directory / name).write_text(" ".join(names))

    def test_it_is_filled_and_filled_again(self, path: Path) -> None:
        (path / "lost+found").mkdir()
        try_writing(path)
        assert is_unfinished(path)
        self.publish(path, "a", "b")
        self.publish(path, "a", "c")
        names = {entry.name for entry in path.iterdir()}
        assert names == {"a", "c", "card", "lost+found"}
        assert {(path / name).read_text() for name in ("a", "c", "card")} == {"a c"}
        assert [entry.name for entry in path.parent.iterdir()] == ["mounted"]

    def test_a_full_disk_leaves_the_old_files(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.publish(path, "a", "b")
        monkeypatch.setattr(os, "fsync", failing_at({1}, FULL, os.fsync))
        with pytest.raises(
            PenwrightError, match=r"No space left.*; what was there before still is"
        ):
            self.publish(path, "a", "c")
        assert {entry.name for entry in path.iterdir()} == {"a", "b", "card"}
        assert (path / "card").read_text() == "a b"

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_cut_short_it_has_no_last_file_and_is_filled_again(
        self, path: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.publish(path, "a", "b")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing_at({number}, REFUSED, os.replace))
            with pytest.raises(PenwrightError, match="; what was there before is gone"):
                self.publish(path, "a", "c")
        assert not (path / "card").exists()
        assert is_unfinished(path)
        self.publish(path, "a", "c")
        assert {entry.name for entry in path.iterdir()} == {"a", "c", "card"}


def busy(mounted: Path) -> Callable[[Path, Path], None]:
    """`os.rename`, where a directory is a mount point."""
    rename = os.rename

    def call(source: Path, target: Path) -> None:
        if mounted in (Path(source), Path(target)):
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(source, target)

    return call


def refusing(parent: Path, make: Callable[..., str]) -> Callable[..., str]:
    """`tempfile.mkdtemp`, where a directory is not writable."""

    def call(*, dir: Path, prefix: str) -> str:
        if dir == parent:
            raise PermissionError(errno.EACCES, "Permission denied")
        return make(dir=dir, prefix=prefix)

    return call


FULL = OSError(28, "No space left on device")
REFUSED = OSError(5, "Input/output error")


class TestWithoutExchange:
    """File systems that cannot exchange two directories: what is where when a rename fails."""

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        without_exchange(monkeypatch)
        path = tmp_path / "checkpoint"
        self.publish(path, "old")
        return path

    @staticmethod
    def publish(path: Path, content: str) -> None:
        with new_directory(path) as directory:
            (directory / "file").write_text(content)

    @pytest.mark.parametrize("number", [1, 2])
    @pytest.mark.parametrize("error", [REFUSED, KeyboardInterrupt()])
    def test_a_rename_fails(
        self, path: Path, number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "rename", failing_at({number}, error, os.rename))
        said = f"{path}: cannot be written: Input/output error; what was there before still is"
        wanted = PenwrightError if error is REFUSED else KeyboardInterrupt
        with pytest.raises(wanted, match=re.escape(said) if error is REFUSED else None):
            self.publish(path, "new")
        assert (path / "file").read_text() == "old"
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("error", [REFUSED, KeyboardInterrupt()])
    def test_the_way_back_fails_too(
        self, path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused = failing_at({1}, error, failing_at({1}, REFUSED, os.rename))
        first = iter([os.rename])
        monkeypatch.setattr(os, "rename", lambda *args: next(first, refused)(*args))
        with pytest.raises(PenwrightError) as caught:
            self.publish(path, "new")
        said = re.fullmatch(
            r"(.+): cannot be written: (.+); what was there before is now (.+), "
            r"and what should be there is (.+)",
            str(caught.value),
        )
        assert said is not None
        assert said[1] == str(path)
        assert said[2] == ("Input/output error" if error is REFUSED else "KeyboardInterrupt()")
        assert (Path(said[3]) / "file").read_text() == "old"
        assert (Path(said[4]) / "file").read_text() == "new"
        assert not path.exists()

    @pytest.mark.parametrize("number", [1, 2])
    def test_an_interrupt_right_after_a_rename(
        self, path: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[object] = []
        rename = os.rename

        def interrupted(*args: Any) -> None:
            rename(*args)
            calls.append(args)
            if len(calls) == number:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.publish(path, "new")
        assert (path / "file").read_text() == ("old" if number == 1 else "new")
        assert list(path.parent.iterdir()) == [path]

    def test_there_is_no_third_rename_that_could_fail(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "rename", failing_at({3, 4, 5}, REFUSED, os.rename))
        self.publish(path, "new")
        assert (path / "file").read_text() == "new"
        assert list(path.parent.iterdir()) == [path]

    def test_another_took_the_place_in_between(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename = os.rename

        def raced(source: Path, target: Path) -> None:
            rename(source, target)
            if source == path:
                path.mkdir()
                (path / "file").write_text("theirs")

        monkeypatch.setattr(os, "rename", raced)
        with pytest.raises(PenwrightError, match=r"what was there before is now .*\.old, and what"):
            self.publish(path, "new")
        contents = sorted((d / "file").read_text() for d in path.parent.iterdir())
        assert contents == ["new", "old", "theirs"]
        assert (path / "file").read_text() == "theirs"


@pytest.mark.usefixtures("way")
def test_an_old_directory_that_cannot_be_deleted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    TestWithoutExchange.publish(path, "old")
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)
    TestWithoutExchange.publish(path, "new")
    assert (path / "file").read_text() == "new"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert (left / "file").read_text() == "old"
    assert caplog.messages == [f"{left}: is left over and cannot be deleted"]


@pytest.mark.usefixtures("way")
def test_a_file_gives_way_to_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_text("a file")
    TestWithoutExchange.publish(path, "new")
    assert (path / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_is_told_though_the_half_file_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    monkeypatch.setattr(os, "replace", failing_at({1}, REFUSED, os.replace))
    monkeypatch.setattr(os, "unlink", failing_at({1}, OSError(1, "Not permitted"), os.unlink))
    monkeypatch.setattr(Path, "unlink", failing_at({1}, OSError(1, "Not permitted"), Path.unlink))
    with pytest.raises(PenwrightError, match=f"{path}: cannot be written: Input/output error"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert caplog.messages == [f"{left}: is left over and cannot be deleted"]


def test_an_interrupt_after_the_file_is_in_place_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace = os.replace

    def interrupted(*args: Any) -> None:
        replace(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_moves_its_file_away_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def move() -> None:
        with new_file(path) as temporary:
            temporary.unlink()

    with pytest.raises(PenwrightError, match=f"{path}: cannot be written: No such file"):
        move()
    assert list(tmp_path.iterdir()) == []
