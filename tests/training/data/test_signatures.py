"""What is no text is called by its name, by both readers, and no encoding is advised for it."""

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import DataError, UsageError
from training.data.documents import read_text
from training.data.labelled import read_labelled
from training.data.text_stream import stream_documents

READERS: list[Callable[..., object]] = [
    read_text,
    lambda path, *encoding: list(stream_documents(path, *encoding)),
]
TEXT = "ham\tone\nspam\ttwo\n"


def tar(form: int = tarfile.PAX_FORMAT) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=form) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT.encode()))
    return whole.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time of day
    return whole.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table texts (text)")
    return connection.serialize()


OPEN_DOCUMENT = zipped(
    {"mimetype": b"application/vnd.oasis.opendocument.spreadsheet", "content.xml": b"<a/>"}
)


def office(folder: str) -> bytes:
    return zipped({"[Content_Types].xml": b"<a/>", f"{folder}/a.xml": b"<a/>"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", tar(), "is a tar archive; unpack it and name the files"),
        ("a.tar", tar(tarfile.GNU_FORMAT), "is a tar archive"),
        ("a.tar.gz", gzip.compress(tar(), mtime=0), "is a tar archive"),
        ("a.tgz", gzip.compress(tar(), mtime=0), "is a tar archive"),
        ("a.tar.xz", lzma.compress(tar()), "is a tar archive"),
        ("63", gzip.compress(tar(), mtime=0), "is a tar archive"),
        (
            "a.zip",
            zipped({"a.tsv.gz": gzip.compress(TEXT.encode(), mtime=0)}),
            "gzip once more; unpack it",
        ),
        (
            "a.txt.gz",
            gzip.compress(gzip.compress(TEXT.encode(), mtime=0), mtime=0),
            "gzip once more; unpack it",
        ),
        ("a.zip", zipped({"b.zip": zipped({"a": b"a"})}), "is a zip archive within another file"),
        ("a.txt.bz2", bz2.compress(TEXT.encode()), "is packed with bzip2, which is not read"),
        ("a.txt.zst", b"\x28\xb5\x2f\xfd\x24\x00", "is packed with zstd, which is not read"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), r"old Office file \(\.xls"),
        ("a.ods", OPEN_DOCUMENT, r"is an OpenDocument file .*; save it as \.xlsx, \.csv or"),
        ("a.docx", office("word"), r"is a Word document; save it as \.txt"),
        ("a.pptx", office("ppt"), "is a PowerPoint file"),
        ("a.txt", office("xl"), r"Excel workbook, .* knows it by the name \.xlsx"),
        ("a.xlsx", office("xl"), r"Excel workbook, .* knows it by the name \.xlsx"),
        ("a.epub", zipped({"mimetype": b"application/epub+zip", "a": b""}), "is an EPUB book"),
        ("a.pdf", b"%PDF-1.7\n% all in ASCII\n", "is a PDF; take the text out of it"),
        ("a.pdf", b"%PDF-1.7\n\xe2\xe3\xcf\xd3\n", "is a PDF; take the text out of it"),
        ("a.parquet", b"PAR1\x15\x04\x15\xf0", r"is parquet, .* knows it by the name \.parquet"),
        ("63", b"PAR1\x15\x04\x15\x10", r"is parquet, .* knows it by the name \.parquet"),
        ("a.db", database(), "is an SQLite database"),
        ("a.bin", b"words\nand \0 numbers", r"a\.bin: line 2 has a NUL character, which is in no"),
        ("a.bin", bytes(5000), r"a\.bin: line 1 has a NUL character"),
        ("a.txt", b"x" * 5000 + b"\n\0", r"a\.txt: line 2 has a NUL character"),
    ],
)
def test_what_is_no_text_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in READERS:
        for encoding in ((), ("latin-1",)):
            with pytest.raises(DataError, match=message) as error:
                read(path, *encoding)
            assert str(error.value).startswith(f"{path}: ")
            assert "--encoding" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["a.tgz", "a.xls", "a.ods", "a.docx", "a.pdf", "a", "a.csv", "a.json", "a.jsonl"]
)
def test_readers_of_rows_name_it_too(name: str, tmp_path: Path) -> None:
    contents = {
        "a.tgz": gzip.compress(tar()),
        "a.ods": OPEN_DOCUMENT,
        "a.docx": office("word"),
        "a.pdf": b"%PDF-1.7",
    }
    (tmp_path / name).write_bytes(contents.get(name, tar()))
    with pytest.raises(DataError, match=r": is an? (tar|Open|Word|PDF)"):
        list(read_labelled(tmp_path / name))


WORDS = {"latin": "ham\tone\nspam\ttwo\n", "greek": "ένα δύο\n", "russian": "один два три четыре\n"}


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("form", ["utf-16", "utf-32"])
@pytest.mark.parametrize("order", ["le", "be"])
def test_a_missing_byte_order_mark(words: str, form: str, order: str, tmp_path: Path) -> None:
    path, text = tmp_path / "a.txt", WORDS[words] * 10
    path.write_bytes(text.encode(f"{form}-{order}"))
    for read in READERS:
        with pytest.raises(DataError, match=rf"try --encoding {form}-{order}$"):
            read(path)
        with pytest.raises(DataError, match=rf"a\.txt: .*try --encoding {form}-{order}$"):
            read(path, form)
        assert read(path, f"{form}-{order}") in (text, [text.strip("\n")])
    path.write_bytes(text.encode(form))
    for read in READERS:
        assert read(path) == read(path, form)


@pytest.mark.parametrize("encoding", ["ascii", "utf-16", "UTF_16", "utf-32"])
def test_text_in_utf8_is_not_advised_to_be_another(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Café für 5 €!\n", encoding="utf-8")
    for read in READERS:
        with pytest.raises(DataError, match=r"a\.txt: not .* text \(.*; try --encoding utf-8$"):
            read(path, encoding)


def test_the_mark_is_asked_for_where_the_order_cannot_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("日本語の文章".encode("utf-16-be"))
    for read in READERS:
        with pytest.raises(DataError, match=r"not UTF-16 text \(no byte order mark\); try --enc"):
            read(path, "utf-16")


@pytest.mark.parametrize("encoding", ["undefined", "klingon", "rot13"])
def test_what_is_no_encoding_is_refused_by_both(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words")
    for read in READERS:
        with pytest.raises(UsageError, match=f"--encoding is '{encoding}'"):
            read(path, encoding)


@pytest.mark.parametrize("text", ["PARIS is a town", "PK is short", "BZh", "7z", "%PDF"])
def test_a_text_may_begin_like_one(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert [read(path) for read in READERS] == [text, [text]]
