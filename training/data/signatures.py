"""What a file is that holds no text, and what to do with it: told by its first bytes, for an
encoding to try would be the wrong advice there.

Source: the signatures are those of `file`'s magic database, and of the formats' specifications.
"""

import io
import zipfile

LONGEST = 512
"""Bytes from the beginning of a file that are enough to know it by."""

_UNPACK = "which is not read here; unpack it, or pack it with xz, gzip or zip"
_SAVE = "save it as .xlsx, .csv or .txt"

_KNOWN: tuple[tuple[int, bytes, str], ...] = (
    (257, b"ustar", "is a tar archive; unpack it and name the files that are meant"),
    (0, b"\x1f\x8b", "is packed with gzip once more; unpack it"),
    (0, b"\xfd7zXZ\0", "is packed with xz once more; unpack it"),
    (4, b"1AY&SY", f"is packed with bzip2, {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"is packed with zstd, {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"is a 7z archive, {_UNPACK}"),
    (0, b"Rar!\x1a\x07", f"is a RAR archive, {_UNPACK}"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"is an old Office file (.xls, .doc); {_SAVE}"),
    (0, b"%PDF-", "is a PDF; take the text out of it, for instance with pdftotext"),
    (
        0,
        b"PAR1\x15",
        "is parquet, which holds rows and no text; what reads rows knows it by the name .parquet",
    ),
    (0, b"ARROW1\0\0", "is an Arrow (Feather) file; write it as parquet, CSV or JSON lines"),
    (0, b"SQLite format 3\0", "is an SQLite database; write its table as CSV or JSON lines"),
    (0, b"\x93NUMPY", "is a NumPy array; write it as text, CSV or JSON lines"),
    (0, b"\x89PNG\r\n", "is a picture"),
    (0, b"\xff\xd8\xff", "is a picture"),
)

_ZIP = b"PK\3\4"
_OFFICE = {
    "xl/": "is an Excel workbook, which holds rows and no text; what reads rows knows it by the "
    "name .xlsx",
    "word/": "is a Word document; save it as .txt",
    "ppt/": "is a PowerPoint file; save its text as .txt",
}
"""Office Open XML, by the folder of its parts."""


def described(content: bytes) -> str:
    """What content is that is no text, as the rest of a sentence; empty if it may be one.

    Args:
        content: all of it, or the first `LONGEST` bytes.
    """
    if content.startswith(_ZIP):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                found = office(archive)
        except (zipfile.BadZipFile, OSError):
            found = ""
        return found or "is a zip archive within another file; unpack it"
    for at, magic, text in _KNOWN:
        if content.startswith(magic, at):
            return text
    return ""


def office(archive: zipfile.ZipFile) -> str:
    """As `described`, of a zip that is an office document."""
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        folders = (text for at, text in _OFFICE.items() if any(n.startswith(at) for n in names))
        return next(folders, f"is an Office document; {_SAVE}")
    if "mimetype" in names:
        with archive.open("mimetype") as file:
            kind = file.read(100).decode("ascii", "replace")
        if "opendocument" in kind:
            return f"is an OpenDocument file (.ods, .odt); {_SAVE}"
        if "epub" in kind:
            return "is an EPUB book; save its text as .txt"
    return ""
