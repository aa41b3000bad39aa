"""The files of a checkpoint directory: JSON with a version, and the card with hashes.

Reading turns whatever can be wrong with a file into a `CheckpointError` that names it. What the
files mean is `model.checkpoint`'s business.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.checkpoint.atomic import (
    UNFINISHED,
    foreign,
    is_unfinished,
    new_directory,
    try_writing,
)
from model.checkpoint.weights_folder import VARIABLE, weights_folder
from model.errors import CheckpointError, UsageError
from model.json_files import read_json, shown, write_json
from model.weight_files import sha256

FORMAT_VERSION = 2
"""What is written; 1 is read as well."""
CARD = "card.json"
MODELS = "models.json"
"""Of a model set."""
PARTS = "parts.json"
"""Which rows trained a checkpoint, as whoever trained it wrote them down."""
CONFIG, SAFETENSORS, GGUF = "config.json", "model.safetensors", "model.gguf"
_SETTINGS = (CONFIG, "adapter.json")
FILES = frozenset(
    {
        CARD,
        PARTS,
        *_SETTINGS,
        *(SAFETENSORS, GGUF, "adapter.safetensors"),
        *("tokenizer.json", "tokenizer.tiktoken"),
    }
)
"""All that any checkpoint has, for one whose card does not say."""
MOST_COMMAND = 200
"""Characters of the command that brings weights."""
WEIGHTS_FROM = "weights_from"
"""On the card of a checkpoint that does not hold its weights: the `command` that brings them."""


def may_be_left_out(name: str) -> bool:
    """Whether a checkpoint may name weights so and not hold them: by the name of a `.gguf` file,
    without a directory, other than the one that is always its own."""
    plain = Path(name).name == name and "\\" not in name
    return plain and Path(name).suffix == ".gguf" and name != GGUF


def file_of(directory: Path, name: str) -> Path:
    """Where a file of the checkpoint in `directory` is: there, or if it may be left out and is not
    there, in the folder of weights. It may be nowhere."""
    beside = directory / name
    if may_be_left_out(name) and not os.path.lexists(beside):
        return weights_folder() / name
    return beside


@contextlib.contextmanager
def new_checkpoint(out: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of `out` when the block ends without an error.

    Raises:
        UsageError: as of `check_target`, before the block or after it.
        PenwrightError: as of `new_directory`.
    """
    check_target(out)
    with new_directory(out.resolve(), last=CARD) as directory:
        yield directory
        check_target(out)  # what has come there meanwhile is not lost either


def check_target(out: Path) -> None:
    """Refuse to publish over a directory that is no checkpoint or holds other things beside it, or
    where nothing can be written; ask before a long training, too.

    Raises:
        UsageError: `out` exists, has something in it, and no card; or a file or directory that is
            none of the checkpoint's, which would be deleted with it; or it is the working directory
            or above it, which cannot be exchanged for another; or it cannot be written.
    """
    place = out.resolve()
    if Path.cwd().is_relative_to(place):
        raise UsageError(f"--out {out} is or holds the working directory; name a new directory")
    try:
        if place.is_dir():
            _check_content(out, place)
        elif place.exists():
            raise UsageError(f"--out {out} is a file; name a directory")
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror or error}") from error
    check_writable(out)


def _check_content(out: Path, place: Path) -> None:
    """
    Raises:
        UsageError: the directory `place`, which `out` names, holds anything but a checkpoint.
    """
    card, unfinished = place / CARD, is_unfinished(place)
    named = _named(card) if card.is_file() else None
    if named is None:
        # Damaged, it may still be a checkpoint's.
        settings = any((place / name).is_file() for name in _SETTINGS)
        if not unfinished and not (card.is_file() and settings):
            raise UsageError(
                f"--out {out} holds files that are no checkpoint; name a new directory"
            )
        further = [_named(new) or () for new in place.glob(f"{UNFINISHED}*/{CARD}")]
        named = FILES.union(*further)
    if (entry := foreign(place, {CARD, *named})) is not None:
        raise UsageError(
            f"--out {out} holds {entry.name}, which is no part of the checkpoint there and would "
            "be deleted with it; move it elsewhere, or name another directory"
        )


def _named(card: Path) -> frozenset[str] | None:
    """The files that a card says are beside it; None where it is damaged, or no card of a
    checkpoint."""
    try:
        files = read_json(card, not_finite=True).get("files")
    except CheckpointError:
        return None
    if not isinstance(files, dict):
        return None
    return frozenset(name for name in files if not may_be_left_out(name))


def check_file(out: Path, flag: str) -> None:
    """Refuse a place where no file can be written, before much work is done for it.

    Raises:
        UsageError: names the flag, the place and the reason.
    """
    if os.path.isdir(out):  # which takes names that no file can have
        raise UsageError(f"{flag} {out} is a directory; name a file")
    check_writable(out, flag)


def check_writable(out: Path, flag: str = "--out") -> None:
    """Refuse a place where nothing can be written, before much work is done for it.

    Raises:
        UsageError: names the flag, the place and the reason.
    """
    try:
        try_writing(out.resolve())
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UsageError(
            f"{flag} {out} cannot be written: {error.strerror or error}{where}"
        ) from error


def write_card(
    directory: Path,
    card: Mapping[str, Any],
    outputs: list[dict[str, Any]],
    left_out: Mapping[str, str] | None = None,
) -> None:
    """
    Args:
        left_out: the SHA-256 of files that are not in the directory, by their names.
    """
    files = {file.name: sha256(file) for file in sorted(directory.iterdir())}
    files |= left_out or {}
    write_json(directory / CARD, {**card, "golden": outputs, "files": files})


def read_card(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """The card, after the hash of every file that it names was found right."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint directory")
    card = read_json(path / CARD, not_finite=True)  # as earlier versions wrote some metrics
    files = card.get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{path / CARD}: has no hashes of files")
    for name in {*needed, *files}:
        _check(path, name, files.get(name), card)
    return card


def _check(path: Path, name: str, wanted: object, card: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: the file of that name is missing or another than the card means.
    """
    file = file_of(path, name)
    left_out = file != path / name
    command = _command(card)
    if not _is_file(file):
        if not may_be_left_out(name):
            raise CheckpointError(f"{file}: is missing")
        brings = f": `{command}` brings it" if command else ""
        raise CheckpointError(
            f"{path}: its weights, {name}, are neither there nor in {weights_folder()} "
            f"({VARIABLE}){brings}"
        )
    if wanted == sha256(file):
        return
    if not left_out:
        raise CheckpointError(
            f"{file}: its SHA-256 is not the one in {CARD}; it was altered or cut short"
        )
    brings = f", and `{command}` brings the right one" if command else ""
    raise CheckpointError(
        f"{file}: its SHA-256 is not the one in {path / CARD}; it was altered, cut short, or is "
        f"another file of that name: move it away{brings}"
    )


def _is_file(path: Path) -> bool:
    """
    Raises:
        CheckpointError: that cannot be found out, for want of a permission or the like.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no name of a file has a NUL
        return False
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _command(card: Mapping[str, Any]) -> str:
    """What brings the weights; empty where a card does not say."""
    stated = card.get(WEIGHTS_FROM)
    command = stated.get("command") if isinstance(stated, dict) else None
    return str(command) if is_command(command) else ""


def is_command(command: object) -> bool:
    """Whether it is a line that a card may state and an error may show."""
    line = isinstance(command, str) and command.isprintable() and command.strip()
    return bool(line) and len(str(command)) <= MOST_COMMAND


def read_versioned(
    path: Path,
    versions: Mapping[int, Mapping[str, tuple[type, ...]]],
    absent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The values of a settings file, `format_version` among them.

    Args:
        versions: the fields of each version that is read, with their types.
        absent: what fields are that may be missing.

    Raises:
        CheckpointError: it is of another version, or a field is missing, unknown or of another
            type; names it.
    """
    values = read_json(path)
    version = values.pop("format_version", None)
    if type(version) is not int or version not in versions:  # True is 1 otherwise
        raise CheckpointError(
            f"{path}: format version {shown(version)}; "
            f"this Penwright reads version {' and '.join(map(str, versions))}"
        )
    fields = versions[version]
    values = {**{k: v for k, v in (absent or {}).items() if k in fields}, **values}
    if values.keys() != fields.keys():
        raise CheckpointError(
            f"{path}: unknown fields {shown(sorted(values.keys() - fields.keys()))}, "
            f"missing fields {sorted(fields.keys() - values.keys())}"
        )
    for name, kinds in fields.items():
        value = values[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise CheckpointError(f"{path}: {name} cannot be {shown(value)}")
    return {**values, "format_version": version}
