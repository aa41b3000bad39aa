"""Books of Project Gutenberg as one text file, each without its licence header and footer."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from model.checkpoint.atomic import write_file
from model.errors import DataError
from model.tokenizer import END_OF_TEXT
from training.data.download import fetch, read_local

URL = "https://www.gutenberg.org/cache/epub/{book}/pg{book}.txt"

BOOKS = (11, 12, 16, 35, 45, 55, 74, 113, 120, 146, 236, 289, 514, 1661, 2591)
"""Alice, Looking-Glass, Peter Pan, The Time Machine, Anne of Green Gables, Oz, Tom Sawyer, The
Secret Garden, Treasure Island, A Little Princess, The Jungle Book, The Wind in the Willows, Little
Women, Sherlock Holmes, Grimm: together about 7 MB."""

_START = re.compile(r"^\*\*\* ?START OF TH[^\n]*$", re.MULTILINE)
_END = re.compile(r"^\*\*\* ?END OF TH[^\n]*$", re.MULTILINE)


def obtain_text(
    out: Path, books: Sequence[int], *, url: str = URL, file: Path | None = None
) -> Path:
    """Write the books, or one local file, to `text.txt` in `out`, and to `text.json` what they are.

    Project Gutenberg corrects its books now and then, so that no checksum can be known before:
    `text.json` records those of what came.

    Args:
        url: with `{book}` where the number belongs.

    Raises:
        DataError: a file cannot be used.
        PenwrightError: a download failed, or a file cannot be written. Nothing is written then.
    """
    origins = [str(file)] if file is not None else [url.format(book=book) for book in books]
    texts, sources = [], []
    for origin in origins:
        raw = read_local(file) if file is not None else fetch(origin)
        texts.append(clean(raw, origin))
        name = file.name if file is not None else origin
        sources.append({"source": name, "sha256": hashlib.sha256(raw).hexdigest()})
    path = out / "text.txt"
    write_file(path, (f"\n{END_OF_TEXT}\n".join(texts) + "\n").encode())
    write_file(out / "text.json", (json.dumps(sources, indent=1) + "\n").encode())
    return path


def clean(raw: bytes, origin: str) -> str:
    """The text between the lines by which Project Gutenberg marks a book's start and end, or all
    of it where there are none; line ends are `\\n`.

    Raises:
        DataError: not UTF-8, or without text.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin}: not UTF-8 text (at byte {error.start})") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if start := _START.search(text):
        text = text[start.end() :]
    if end := _END.search(text):
        text = text[: end.start()]
    if not text.strip():
        raise DataError(f"{origin}: is empty")
    return text.strip()
