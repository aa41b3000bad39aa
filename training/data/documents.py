"""Documents of plain text, and what tells two of them apart.

Documents are the parts of a file between `<|endoftext|>`s, which may stand on lines of their own or
within a line, as tools join texts; a file without one is one document.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from model.errors import DataError
from model.tokenizer import END_OF_TEXT
from training.data.files import Source, read_file

_SPACE = re.compile(r"\s")
_PART = 2**20  # characters that are normalised together


def read_text(source: Source, encoding: str | None = None) -> str:
    """All text of a file.

    Raises:
        DataError: missing, unreadable, in another encoding, or without text; names the file.
    """
    return read_file(source, encoding).text


def documents(text: str) -> Iterator[str]:
    """The documents of a file, without what separates them, and without empty ones; line ends are
    `\\n`, and a byte order mark is dropped."""
    for _, document in numbered_documents(text):
        yield document


def numbered_documents(text: str) -> Iterator[tuple[int, str]]:
    """As `documents`, each with the line that it begins on, from 1."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    parts = text.split(END_OF_TEXT)
    line = 1
    for number, part in enumerate(parts, start=1):
        if number > 1:
            part = part.lstrip(" \t")  # what is left of the separator's line
        if number < len(parts):
            part = part.rstrip(" \t")
        if part.strip():
            blank = len(part) - len(part.lstrip())
            yield line + part.count("\n", 0, blank), part.strip("\n")
        line += part.count("\n")


def normalise(text: str) -> str:
    """What two copies of the same text have in common: its words, whatever case and spacing."""
    return " ".join(text.lower().split())


def text_hash(text: str) -> str:
    """Identifies a text up to case and spacing; splits are made by it. That is the SHA-256 of what
    `normalise` makes of it, which is never all in memory."""
    digest = hashlib.sha256()
    start, between = 0, ""
    while start < len(text):
        # White space is not changed by what is beside it, nor changes that.
        space = _SPACE.search(text, start + _PART)
        end = space.start() if space else len(text)
        if words := normalise(text[start:end]):
            digest.update((between + words).encode("utf-8", "surrogatepass"))
            between = " "
        start = end
    return digest.hexdigest()


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the normalised text alone: the same text always falls on
    the same side of a split, in whichever file and order it comes."""
    return fraction_of(text_hash(text))


def fraction_of(identity: str) -> float:
    """`hash_fraction` of the text with this `text_hash`."""
    return int(identity[:13], 16) / 16**13


def file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
