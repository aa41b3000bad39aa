"""Documents of a text file, one by one: no more than one of them is in memory.

The file is read, unpacked and decoded in pieces. Its documents are those that
`training.data.documents` finds in the whole text; both separate at `<|endoftext|>`.
"""

import codecs
import contextlib
import gzip
import hashlib
import lzma
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from model.checkpoint.atomic import writing
from model.errors import DataError
from model.tokenizer import END_OF_TEXT
from training.data.documents import file_sha256
from training.data.files import (
    check_characters,
    check_encoding,
    marked,
    not_decoded,
    packing,
    read_file,
)
from training.data.signatures import LONGEST, described

_PIECE = 2**20  # bytes that are read together


@dataclass(frozen=True)
class TextFile:
    """A file that can be read as often as one likes."""

    given: Path
    """How it was named."""
    path: Path
    """Where it is."""
    sha256: str


@contextlib.contextmanager
def text_files(paths: Sequence[Path], directory: Path) -> Iterator[list[TextFile]]:
    """The files at `paths`. What can be read but once, such as a pipe, is copied into `directory`
    while the block runs.

    Raises:
        DataError: one cannot be read; names it.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for number, path in enumerate(paths):
            if _is_regular(path):
                found.append(TextFile(path, path, file_sha256(path)))
                continue
            copy = directory / f"input-{number}"
            stack.callback(copy.unlink, missing_ok=True)
            found.append(TextFile(path, copy, _copied(path, copy)))
        yield found


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _copied(path: Path, copy: Path) -> str:
    """Copy what can be read but once; its SHA-256."""
    digest = hashlib.sha256()
    with writing(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
        target = copy.open("wb")
    with target, _errors_of(path), path.open("rb") as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
            with writing(copy):
                target.write(piece)
    return digest.hexdigest()


def stream_documents(
    path: Path, encoding: str | None = None, *, given: Path | None = None
) -> Iterator[str]:
    """The documents of a file, as `documents(read_text(path))` has them.

    Args:
        encoding: of the text; None is UTF-8, or what a byte order mark says.
        given: how the file is called in errors.

    Raises:
        DataError: missing, unreadable, in another encoding, or without text; names the file.
    """
    name = given or path
    empty = True

    def pieces() -> Iterator[str]:
        nonlocal empty
        for piece in _pieces(path, encoding, name):
            empty = empty and (not piece or piece.isspace() or piece == "\ufeff")
            yield piece

    yield from split_documents(pieces())
    if empty:
        raise DataError(f"{name}: is empty")


def split_documents(pieces: Iterable[str]) -> Iterator[str]:
    """The documents of a text that comes in pieces, whose ends may be anywhere."""
    held: list[str] = []  # of the document that goes on
    tail = ""  # what may be the beginning of a separator, or half of a line's end
    number = 0
    for piece in pieces:
        *ended, text = _with_newlines(tail + piece).split(END_OF_TEXT)
        for part in ended:
            held.append(part)
            number += 1
            yield from _document(held, first=number == 1, last=False)
        keep = len(text) - len(END_OF_TEXT)
        held.append(text[: max(0, keep)])
        tail = text[max(0, keep) :]
    held.append(tail.replace("\r", "\n"))
    yield from _document(held, first=number == 0, last=True)


def _with_newlines(text: str) -> str:
    """Lines end with `\\n`; a `\\r` at the end, which a `\\n` may follow, is left."""
    end = "\r" if text.endswith("\r") else ""
    return text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n") + end


def _document(parts: list[str], *, first: bool, last: bool) -> Iterator[str]:
    """The document of these parts, which are used up, if there is anything in it: without what is
    left of the separators' lines."""
    text = "".join(parts)
    parts.clear()
    if not first:
        text = text.lstrip(" \t")
    if not last:
        text = text.rstrip(" \t")
    if text and not text.isspace():
        text = text.strip("\n")  # under the same name, for only one of the two is needed
        yield text


def _pieces(path: Path, encoding: str | None, name: Path) -> Iterator[str]:
    """The text of a file, about a million characters at a time, without a byte order mark."""
    with _errors_of(name), path.open("rb") as raw:
        kind = packing(name, raw.peek(8))
        if kind == ".zip":  # which is read from its end
            yield read_file(path, encoding, given=name).text
            return
        with _unpacked(raw, kind) as source:
            yield from _decoded(source, encoding, name)


def _unpacked(raw: IO[bytes], kind: str) -> IO[bytes]:
    match kind:
        case ".xz":
            return lzma.open(raw)
        case ".gz":
            return cast(IO[bytes], gzip.open(raw))
    return raw


def _decoded(source: IO[bytes], encoding: str | None, name: Path) -> Iterator[str]:
    check_encoding(encoding)
    content = source.read(_PIECE)
    encoding = encoding or marked(content)
    decoder = codecs.getincrementaldecoder(encoding)()
    size, lines, beginning, first = 0, 0, True, b""
    while True:
        size += len(content)
        if content and len(first) < LONGEST:
            first = (first + content)[:LONGEST]
            if what := described(first):
                raise DataError(f"{name}: {what}")
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeError as error:  # some codecs raise no more than the base class
            failed = error.object if isinstance(error, UnicodeDecodeError) else content
            reason = not_decoded(failed, encoding, error, size - len(failed))
            raise DataError(f"{name}: {reason}") from error
        if text:
            check_characters(text, content, encoding, name, lines)
            lines += text.count("\n")
            yield text.removeprefix("\ufeff") if beginning else text
            beginning = False
        if not content:
            return
        content = source.read(_PIECE)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error
