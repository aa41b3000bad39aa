"""Writes that a crash or a full disk cannot leave half done."""

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from model.errors import PenwrightError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let a write that the operating system refuses name its file.

    Raises:
        PenwrightError: the block raised an OSError; names `path`.
    """
    try:
        yield
    except OSError as error:
        raise PenwrightError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_file(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write `path` whole or not at all.

    Args:
        mode: permissions of the file; by default those of any new file.

    Raises:
        PenwrightError: it cannot be written; names the file. What was there before still is.
    """
    with new_file(path, mode=mode) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def new_file(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """An empty file to fill, which takes the place of `path` when the block ends without an error.

    Raises:
        PenwrightError: it cannot be written; names the file. What was there before still is.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            os.close(descriptor)
            yield Path(name)
            with open(name, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask() if mode is None else mode)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of `path` when the block ends without an error.

    The two directories are exchanged in one step of the file system, so a reader sees the old one
    or the new one, whole. When the block fails, the old one stays.

    Raises:
        PenwrightError: the disk is full or not writable; names `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
        try:
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            for file in temporary.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            if path.exists():
                _exchange(temporary, path)
            else:
                os.rename(temporary, path)
        finally:
            # After an exchange this is the old directory.
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise PenwrightError(
            f"{path}: cannot be written: {error.strerror or error}; what was there before still is"
        ) from error


def _exchange(a: Path, b: Path) -> None:
    """Exchange two directories: in one step on Linux, elsewhere in two renames."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        at_cwd, exchange = -100, 2
        if renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0:
            return
    aside = a.with_name(a.name + ".old")
    os.rename(b, aside)
    os.rename(a, b)
    os.rename(aside, a)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
