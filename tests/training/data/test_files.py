"""Bytes of data files: unpacked, decoded as said, read once."""

import gzip
import hashlib
import lzma
import os
import threading
import zipfile
from pathlib import Path

import pytest

from model.errors import DataError, UsageError
from training.data.documents import read_text
from training.data.files import form, packed, read_file
from training.data.labelled import Reading, read_labelled

TEXT = "ham\tCafé à 5 £\nspam\tone\n"


def zipped(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["a.tsv.xz", "a.tsv.gz", "a.tsv.zip", "A.TSV.GZ", "a.tsv"])
def test_what_is_packed_is_what_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(packed(TEXT, "utf-8", Path(name.lower())))
    file = read_file(path)
    assert (file.text, file.form) == (TEXT, ".tsv")
    assert file.form == form(path)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_packed_bytes_are_known_without_a_name(pack: object, tmp_path: Path) -> None:
    path = tmp_path / "63"
    path.write_bytes(pack(TEXT.encode()))  # type: ignore[operator]
    assert read_text(path) == TEXT


def test_a_zip_must_hold_one_file(tmp_path: Path) -> None:
    path = zipped(tmp_path / "sms.zip", {"a.tsv": TEXT, "__MACOSX/._a.tsv": "x"})
    assert len(list(read_labelled(path))) == 2
    of_macos = (".DS_Store", "._a.tsv", "data/.DS_Store", "data/._x", "data/__MACOSX/._y")
    zipped(path, {"data/a.tsv": TEXT, "__MACOSX/data/._a.tsv": "x", **dict.fromkeys(of_macos, "x")})
    assert read_file(path).text == TEXT
    zipped(path, {"a.tsv": TEXT, "readme.txt": "Read me"})
    with pytest.raises(DataError, match=r"sms\.zip: holds 2 files \(a\.tsv, readme\.txt\)"):
        read_file(path)
    zipped(path, {})
    with pytest.raises(DataError, match="holds 0 files"):
        read_file(path)


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zip"])
@pytest.mark.parametrize("cut", [0, -20])
def test_damaged_packing_is_named(suffix: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / f"a.tsv{suffix}"
    whole = packed(TEXT * 100, "utf-8", path)
    path.write_bytes(whole[: len(whole) + cut] if cut else b"no such thing")
    with pytest.raises(DataError, match="cannot be read") as error:
        read_file(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", TEXT),
        ("cp1252", TEXT + "ham\t“Quoted”\n"),
        *((f"utf-16-{end}", text) for end in ("le", "be") for text in (TEXT, "ham\ta\nspam\tb\n")),
    ],
)
def test_other_encodings_are_suggested_and_then_read(
    encoding: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=f"try --encoding {encoding}$") as error:
        read_text(path)
    assert str(path) in str(error.value)
    assert read_text(path, encoding) == text
    found = [(e.label, e.text) for e in read_labelled(path, Reading(encoding=encoding))]
    assert found == [tuple(line.split("\t")) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["klingon", "rot13", "hex", "", "utf-8\0"])
def test_unknown_encodings(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(UsageError, match="--encoding is "):
        read_text(tmp_path / "a.txt", name)


def test_the_wrong_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Café".encode())
    with pytest.raises(DataError, match=r"not ascii text .*; try --encoding"):
        read_text(tmp_path / "a.txt", "ascii")


def test_cards_name_an_encoding_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(TEXT.encode("latin-1"))
    source = read_file(path, "latin-1").source
    assert source["encoding"] == "iso8859-1"
    path.write_text(TEXT)
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    assert read_file(path, "UTF-8").source == {"file": "a.tsv", "sha256": digest}


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(TEXT))
    writer.start()
    file = read_file(pipe)
    writer.join()
    assert [e.label for e in read_labelled(file)] == ["ham", "spam"]
    assert file.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("a\u0085b\x0bc\u2028d\r\ne\rf".encode())
    assert read_file(path).lines == ["a\u0085b\x0bc\u2028d\r\n", "e\r", "f\n"]
    path.write_bytes(b"a\rb\r")
    assert read_file(path).lines == ["a\r", "b\r"]
