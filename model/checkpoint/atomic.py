"""Writes that a crash or a full disk cannot leave half done."""

import contextlib
import ctypes
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from model.errors import PenwrightError

logger = logging.getLogger(__name__)


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
            _remove(Path(name))
            raise


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of `path` when the block ends without an error.

    The two directories are exchanged in one step of the file system, so a reader sees the old one
    or the new one, whole. When the block fails, the old one stays. A file system that cannot
    exchange needs two renames: between them a reader sees none, and a crash of the machine leaves
    the old one under a hidden name beside it.

    Raises:
        PenwrightError: the disk is full or not writable; names `path`, and where the old directory
            is if it could not be put back.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
        aside = temporary.with_name(temporary.name + ".old")
        try:
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            for file in temporary.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            if not path.exists():
                os.rename(temporary, path)
            elif not _exchange(temporary, path):
                _replace(temporary, path, aside)
        finally:
            if not (aside.exists() and temporary.exists()):  # else neither is in place
                _remove(aside)
                _remove(temporary)  # after an exchange, the old directory
    except OSError as error:
        raise PenwrightError(
            f"{path}: cannot be written: {error.strerror or error}; what was there before still is"
        ) from error


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two directories in one step; whether the system and the file system can do it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0)


def _replace(new: Path, path: Path, aside: Path) -> None:
    """Move `path` aside and `new` into its place; when the second fails, undo the first."""
    try:
        os.rename(path, aside)
        os.rename(new, path)
    except BaseException as error:
        # What is there tells how far it came, wherever an interrupt struck.
        if aside.exists() and new.exists():
            try:
                os.rename(aside, path)
            except OSError:
                reason = getattr(error, "strerror", None) or repr(error)
                raise PenwrightError(
                    f"{path}: cannot be written: {reason}; "
                    f"what was there before is now {aside}, and what should be there is {new}"
                ) from error
        raise


def _remove(left: Path) -> None:
    """Delete what is left over, if it is there; that it cannot be is no reason to fail."""
    if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            left.unlink(missing_ok=True)
    if left.exists():
        logger.warning("%s: is left over and cannot be deleted", left)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
