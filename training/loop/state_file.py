"""A file of a run's state, read with suspicion.

torch writes a zip file with a CRC-32 of each member, and looks at none of them when it reads: a
weight whose bits a disk has lost would be trained on in silence. Whatever is wrong with a file is
one line that names it and says why.
"""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from model.errors import PenwrightError
from training.loop.memory import is_out_of_memory

_BEGINNING = b"PK\x03\x04"
"""Of every zip file with something in it."""
_END, _END_BYTES = b"PK\x05\x06", 22
"""How the record begins that ends a zip file, and its length."""
_ODD = (RuntimeError, EOFError, ValueError, LookupError, OverflowError, zlib.error)
"""What else `zipfile` raises for a damaged file."""


def damaged(path: Path, reason: object) -> PenwrightError:
    """What to raise for a file that was a state once."""
    return PenwrightError(
        f"--resume: {path} cannot be read: it is damaged ({first_line(reason)}); "
        "start again without --resume"
    )


def no_state(path: Path, reason: object) -> PenwrightError:
    """What to raise for a file that never was one."""
    return PenwrightError(
        f"--resume: {path} is no saved state ({first_line(reason)}); start again without --resume"
    )


def first_line(reason: object) -> str:
    """The beginning of what a library says, which may be a page."""
    lines = str(reason).strip().splitlines()
    return lines[0].strip() if lines else type(reason).__name__


def read(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """The dictionary that a file holds, on the CPU; every bit of it is as it was written.

    Args:
        mapped: tensors are read when they are used, and nothing is copied.

    Raises:
        PenwrightError: it cannot be read, is damaged, or holds no dictionary.
    """
    try:
        _check(path)
        content = torch.load(path, map_location="cpu", mmap=mapped)
    except pickle.UnpicklingError as error:
        raise no_state(path, "it holds other things than tensors, numbers and texts") from error
    except OSError as error:
        if is_out_of_memory(error):
            raise
        raise PenwrightError(
            f"--resume: {path} cannot be read: {first_line(error.strerror or error)}; "
            "start again without --resume"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise no_state(path, error) from error
    if not isinstance(content, dict):
        raise no_state(path, f"it holds a {type(content).__name__}")
    return content


def _check(path: Path) -> None:
    """Read every member of the zip file and compare its CRC-32.

    Raises:
        OSError: it cannot be read.
        PenwrightError: it is no zip file, cut short or altered.
    """
    with path.open("rb") as file:
        beginning = file.read(len(_BEGINNING))
        if not beginning:
            raise damaged(path, "it is empty")
        try:
            with zipfile.ZipFile(file) as archive:
                wrong = archive.testzip()
        except zipfile.BadZipFile as error:
            if beginning != _BEGINNING:
                raise no_state(path, "it is no file of PyTorch's") from error
            file.seek(max(0, path.stat().st_size - _END_BYTES))
            cut = file.read(len(_END)) != _END
            raise damaged(path, "its end is missing" if cut else error) from error
        except _ODD as error:
            raise damaged(path, error) from error
    if wrong is not None:
        raise damaged(path, f"the checksum of {wrong} is another")


def checksum(path: Path) -> int:
    """CRC-32 of a file.

    Raises:
        OSError: it cannot be read.
    """
    value = 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            value = zlib.crc32(piece, value)
    return value
