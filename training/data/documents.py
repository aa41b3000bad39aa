"""Plain text to a memory-mapped file of tokens, and windows over it.

Documents are the parts of a file between lines that hold only `<|endoftext|>`; a file without such
a line is one document. Each document begins as the tokenizer begins every text, and is followed by
the token that ends a document. Tokens are written to disk once, two bytes each (four where there
are more than 65,536), and mapped from there: data may be larger than memory, and a window costs
nothing until it is read.
"""

import hashlib
import lzma
import re
from collections.abc import Iterator
from pathlib import Path

from model.errors import DataError
from model.tokenizer import END_OF_TEXT

_SEPARATOR = re.compile(rf"^{re.escape(END_OF_TEXT)}[ \t]*$", re.MULTILINE)

_SPACE = re.compile(r"\s")
_PART = 2**20  # characters that are normalised together


def read_text(path: Path) -> str:
    """All text of a UTF-8 file, unpacked if its name ends in `.xz`.

    Raises:
        DataError: missing, unreadable, not UTF-8, or without text; names the file.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".xz":
            raw = lzma.decompress(raw)
        text = raw.decode("utf-8")
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text (byte {error.start} is {raw[error.start]:#04x})"
        ) from error
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


def documents(text: str) -> Iterator[str]:
    """The documents of a file, without the lines that separate them and without empty ones; line
    ends are `\\n`, and a byte order mark is dropped."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for document in _SEPARATOR.split(text):
        if document.strip():
            yield document.strip("\n")


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
