"""Writes that a crash or a full disk cannot leave half done."""

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from model.errors import PenwrightError

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished-"
"""How the names of directories begin that are filled within the one whose place they cannot take.
"""
_OF_THE_FILE_SYSTEM = "lost+found"


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
        make_parent(path)
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
def new_directory(path: Path, *, last: str = "") -> Iterator[Path]:
    """A directory to fill, which takes the place of `path` when the block ends without an error.

    The two directories are exchanged in one step of the file system, so a reader sees the old one
    or the new one, whole. When the block fails, the old one stays. A file system that cannot
    exchange needs two renames: between them a reader sees none, and a crash of the machine leaves
    the old one under a hidden name beside it.

    A mount point (as of `docker run -v`), or a directory whose parent is not writable, keeps its
    place: the new files are written whole within it, and then take the places of the old ones.
    Cut short there, it has no file `last`, and can be filled again.

    Args:
        last: the name of the file without which the directory is nothing to its readers: in place,
            the old one goes first and the new one comes last.

    Raises:
        PenwrightError: the disk is full or not writable; names `path`, and where the old directory
            is if it could not be put back.
    """
    filling = False
    try:
        make_parent(path)
        temporary = _beside_or_within(path, path.parent)
        aside = temporary.with_name(temporary.name + ".old")
        try:
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            for file in temporary.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            if temporary.parent != path and not _take_place(temporary, path, aside):
                temporary = _moved_within(temporary, path)
            if temporary.parent == path:
                filling = True
                _fill(path, temporary, last)
        finally:
            # Where both exist, neither is in place; and where `filling`, it says so to the next.
            if not (filling or (aside.exists() and temporary.exists())):
                _remove(aside)
                _remove(temporary)  # after an exchange, the old directory
    except OSError as error:
        before = "what was there before is gone" if filling else "what was there before still is"
        raise PenwrightError(
            f"{path}: cannot be written: {error.strerror or error}; {before}"
        ) from error


def make_parent(path: Path) -> None:
    """Make the directory that is to hold `path`, if it is not there.

    Raises:
        OSError: it cannot be made; where a file is in its place, the reason is that it is no
            directory, and not that it exists.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(
            errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename
        ) from error


def try_writing(path: Path) -> None:
    """Find out whether a new file or directory could be put at `path`; nothing is left there.

    Raises:
        OSError: it could not; names what is in the way.
    """
    parent = path.parent
    while not os.path.lexists(parent) and parent != parent.parent:
        parent = parent.parent
    os.rmdir(_beside_or_within(path, parent))


def is_unfinished(path: Path) -> bool:
    """Whether a directory is empty, or `new_directory` was cut short while it filled it."""
    names = {entry.name for entry in path.iterdir()} - {_OF_THE_FILE_SYSTEM}
    return not names or any(name.startswith(UNFINISHED) for name in names)


def foreign(path: Path, own: Collection[str]) -> Path | None:
    """The first entry of a directory, by name, that `new_directory` would delete and that is none
    of the files `own`; None where there is none."""
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(UNFINISHED) or (entry.name in own and not entry.is_dir()):
            continue
        if entry.name == _OF_THE_FILE_SYSTEM and os.path.ismount(path):  # which keeps it
            continue
        return entry
    return None


def _beside_or_within(path: Path, parent: Path) -> Path:
    """An empty directory: in `parent`, or, where that cannot be or would be of no use, in `path`
    itself."""
    try:
        if not os.path.ismount(path):
            return Path(tempfile.mkdtemp(dir=parent, prefix=f".{path.name}.new-"))
    except OSError:
        if not path.is_dir():
            raise
    return Path(tempfile.mkdtemp(dir=path, prefix=UNFINISHED))


def _take_place(new: Path, path: Path, aside: Path) -> bool:
    """Put `new` where `path` is; whether that can be: a mount point stays where it is."""
    if not path.exists():
        try:
            os.rename(new, path)
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else another process has just put something there
    if not _exchange(new, path):
        try:
            _replace(new, path, aside)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            return False
    return True


def _moved_within(new: Path, path: Path) -> Path:
    """The directory `new`, now inside of `path`, which may be another file system."""
    within = Path(tempfile.mkdtemp(dir=path, prefix=UNFINISHED))
    try:
        for file in new.iterdir():
            copy = within / file.name
            shutil.copyfile(file, copy)
            with copy.open("rb") as handle:
                os.fsync(handle.fileno())
    except BaseException:
        _remove(within)
        raise
    _remove(new)
    return within


def _fill(path: Path, new: Path, last: str) -> None:
    """Put the files of `new`, a directory in `path`, into `path`, and delete all else there.
    The directory `new` goes at the very end: until then it says that `path` is unfinished."""
    if last:
        (path / last).unlink(missing_ok=True)
        _sync(path)
    for old in path.iterdir():
        if old != new and old.name != _OF_THE_FILE_SYSTEM:
            _remove(old)
    for file in sorted(new.iterdir(), key=lambda file: file.name == last):
        if file.name == last:
            _sync(path)
        os.replace(file, path / file.name)
    new.rmdir()
    _sync(path)


def _sync(directory: Path) -> None:
    """Let the names in a directory reach the disk, where a directory can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
