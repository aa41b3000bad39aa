"""The bytes of a data file: read once, unpacked, decoded, and their SHA-256.

A file may be packed (`.xz`, `.gz`, or `.zip` with one file in it). Its text is UTF-8, or UTF-16 or
UTF-32 with a byte order mark, or what `--encoding` says: an encoding is never guessed, for most
read any bytes, and wrongly. All of it is read in one go, so that a pipe will do.
"""

import codecs
import contextlib
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from model.errors import DataError, UsageError
from training.data.signatures import described, office

BINARY = (".parquet", ".xlsx")
"""Forms that are no text."""

_MAGIC = {".xz": b"\xfd7zXZ\0", ".gz": b"\x1f\x8b", ".zip": b"PK\3\4"}
_MARKS = {
    "utf-8": (codecs.BOM_UTF8,),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # one begins as UTF-16's does
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


@dataclass(frozen=True)
class File:
    """What was read of one file."""

    path: Path
    content: bytes
    """Unpacked."""
    form: str
    """The suffix of what is in it, in lower case: of `a.csv.xz`, `.csv`."""
    sha256: str
    """Of the file as it is, packed or not."""
    encoding: str
    """That its text is in."""

    @property
    def source(self) -> dict[str, object]:
        """What cards say of it: its name and SHA-256, and an encoding that was asked for."""
        encoding = codecs.lookup(self.encoding).name
        asked = {} if encoding == marked(self.content) else {"encoding": encoding}
        return {"file": self.path.name, "sha256": self.sha256, **asked}

    @cached_property
    def text(self) -> str:
        """All of it, without a byte order mark.

        Raises:
            DataError: it is not in the encoding, or there is none; names the file.
        """
        if what := described(self.content):
            raise DataError(f"{self.path}: {what}")
        try:
            # As a stream is decoded, for that knows what a missing byte order mark is.
            decoder = codecs.getincrementaldecoder(self.encoding)()
            text = decoder.decode(self.content, final=True).removeprefix("\ufeff")
        except UnicodeError as error:
            reason = not_decoded(self.content, self.encoding, error)
            raise DataError(f"{self.path}: {reason}") from error
        if not text.strip():
            raise DataError(f"{self.path}: is empty")
        check_characters(text, self.content, self.encoding, self.path)
        return text

    @cached_property
    def lines(self) -> list[str]:
        """Of the text, each with its end: `\\n`, `\\r\\n` or `\\r`, all in one file if need be,
        for a row that a text swallows is not seen again. Other characters that end lines, such as
        U+0085, belong to a text."""
        found = io.StringIO(self.text, newline="").readlines()
        if not found[-1].endswith(("\n", "\r")):
            found[-1] += "\n" if "\n" in self.text else "\r"
        return found


Source = Path | File
"""A file that is to be read, or has been."""


def read_file(source: Source, encoding: str | None = None, *, given: Path | None = None) -> File:
    """Read a file, if that has not been done.

    Args:
        encoding: of its text; None is UTF-8, or what a byte order mark says.
        given: how the file is called, if not by its path.

    Raises:
        DataError: missing, unreadable, or not packed as its name says; names the file.
        UsageError: there is no such encoding.
    """
    if isinstance(source, File):
        return source
    check_encoding(encoding)
    path = given or source
    try:
        raw = source.read_bytes()
        name, content = _unpacked(path, raw)
    except (
        *(OSError, EOFError, lzma.LZMAError, zlib.error),
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError),  # of zips: the last, a password
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error
    form = PurePosixPath(name).suffix.lower()
    digest = hashlib.sha256(raw).hexdigest()
    return File(path, content, form, digest, encoding or marked(content))


def form(path: Path) -> str:
    """The suffix that tells the form of a file: that before `.xz`, if it is packed."""
    packed = path.suffix.lower() in _MAGIC
    return (Path(path.stem).suffix if packed else path.suffix).lower()


def packed(text: str, encoding: str, out: Path) -> bytes:
    """What a file of the name of `out` holds when its text is this.

    Raises:
        DataError: the encoding has no bytes for some character.
    """
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError as error:
        raise DataError(f"{out}: {encoding} has no {text[error.start]!r}") from error
    match out.suffix.lower():
        case ".xz":
            return lzma.compress(content)
        case ".gz":
            return gzip.compress(content, mtime=0)
        case ".zip":
            whole = io.BytesIO()
            with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo(out.stem), content)
            return whole.getvalue()
    return content


def _unpacked(path: Path, raw: bytes) -> tuple[str, bytes]:
    """The name that tells the form, and the content."""
    suffix = path.suffix.lower()
    if suffix in BINARY:  # a spreadsheet is a zip, too
        return path.name, raw
    kind = packing(path, raw)
    if kind == ".zip":
        return _only_member(path, raw)
    name = path.stem if suffix in _MAGIC else path.name
    if kind == ".xz":
        return name, lzma.decompress(raw)
    return name, gzip.decompress(raw) if kind == ".gz" else raw


def packing(path: Path, beginning: bytes) -> str:
    """How a file is packed, as its name says or its first bytes: a key of `_MAGIC`, or nothing."""
    suffix = path.suffix.lower()
    known = (name for name, magic in _MAGIC.items() if beginning.startswith(magic))
    return suffix if suffix in _MAGIC else next(known, "")


def _only_member(path: Path, raw: bytes) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        if what := office(archive):
            raise DataError(f"{path}: {what}")
        infos = archive.infolist()
        names = [i.filename for i in infos if not (i.is_dir() or _is_of_macos(i.filename))]
        if len(names) != 1:
            raise DataError(
                f"{path}: holds {len(names)} files ({', '.join(names[:5])}); it must hold one: "
                "unpack it and name those that are meant"
            )
        return names[0], archive.read(names[0])


def _is_of_macos(name: str) -> bool:
    """Whether it is what macOS puts beside files: their attributes, and how a folder is shown."""
    last = PurePosixPath(name).name
    return "__MACOSX" in PurePosixPath(name).parts or last.startswith("._") or last == ".DS_Store"


def check_encoding(encoding: str | None) -> None:
    """
    Raises:
        UsageError: there is no such encoding.
    """
    try:
        if encoding is not None:
            codecs.getincrementaldecoder(encoding)
            bytes(4).decode(encoding)
    except UnicodeDecodeError:  # such bytes are not in it
        return
    except (LookupError, ValueError):  # the latter also of `undefined`, which decodes nothing
        raise UsageError(
            f"--encoding is {encoding!r}; it must be an encoding of text that Python knows, such "
            "as utf-8, latin-1, cp1252 or utf-16"
        ) from None


def marked(content: bytes) -> str:
    """The encoding that a byte order mark says."""
    return next((name for name, marks in _MARKS.items() if content.startswith(marks)), "utf-8")


def check_characters(
    text: str, content: bytes, encoding: str, path: Path, lines_before: int = 0
) -> None:
    """Check that a text, or a piece of one, is no binary data that its encoding happens to read.

    Args:
        content: its bytes.
        lines_before: those that came before `text`.

    Raises:
        DataError: it has a NUL character; says what it looks like.
    """
    at = text.find("\0")
    if at < 0:
        return
    looks = _unmarked(content)
    if looks and looks != codecs.lookup(encoding).name:
        name = looks[:6].upper()
        raise DataError(
            f"{path}: looks like {name} without a byte order mark; try --encoding {looks}"
        )
    line = lines_before + text.count("\n", 0, at) + 1
    raise DataError(
        f"{path}: line {line} has a NUL character, which is in no text: the file is binary, "
        "damaged or in another encoding"
    )


def not_decoded(content: bytes, encoding: str, error: UnicodeError, before: int = 0) -> str:
    """What is wrong with bytes that are no text, and which encoding to try.

    Args:
        before: bytes that came before `content`.
    """
    if not isinstance(error, UnicodeDecodeError) and encoding.lower()[:3] == "utf":
        name = codecs.lookup(encoding).name
        looks = _unmarked(content) or ("utf-8" if _is_utf8(content) else f"{name}-le")
        return f"not {name.upper()} text (no byte order mark); try --encoding {looks}"
    at = error.start if isinstance(error, UnicodeDecodeError) else len(content)
    shown = f"byte {before + at} is {content[at]:#04x}" if at < len(content) else str(error)
    name = encoding.upper() if encoding.startswith("utf") else encoding
    text = f"not {name} text ({shown})"
    is_utf8 = codecs.lookup(encoding).name != "utf-8" and _is_utf8(content)
    suggested = "utf-8" if is_utf8 else _suggestion(content)
    return text if suggested == encoding else f"{text}; try --encoding {suggested}"


def _is_utf8(content: bytes) -> bool:
    """Whether it is, up to a last character that may be cut."""
    with contextlib.suppress(UnicodeDecodeError):
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(content)
    return False


def _suggestion(content: bytes) -> str:
    """The encoding that bytes which are no UTF-8 most likely are in."""
    if looks := _unmarked(content):
        return looks
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    # Windows has letters and quotation marks where Latin-1 has control characters.
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in set(content)) else "latin-1"


def _unmarked(content: bytes) -> str:
    """What of UTF-16 and UTF-32, without a byte order mark, bytes look like; or nothing."""
    beginning = content[:10_000]
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        # The upper bytes of most alphabets' letters are small.
        upper = beginning[1::2] if name.endswith("le") else beginning[0::2]
        small = sum(byte < 9 for byte in upper)
        with contextlib.suppress(UnicodeDecodeError):
            whole = len(content) == len(beginning)
            text = codecs.getincrementaldecoder(name)().decode(beginning, final=whole)
            if small > len(upper) // 2 and "\0" not in text:
                return name
    return ""
