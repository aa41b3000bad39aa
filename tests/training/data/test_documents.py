"""Text to tokens on disk, and windows over them."""

import lzma
from pathlib import Path

import numpy as np
import pytest

from model.errors import DataError
from model.tokenizer import Tokenizer
from training.data.documents import documents, hash_fraction, read_text
from training.data.tokens import Windows, tokenize_files


def test_documents_end_at_separators_on_their_lines_and_in_others() -> None:
    text = "<|endoftext|>\none\n<|endoftext|>\ntwo <|endoftext|> three\n\n<|endoftext|>"
    assert list(documents(text)) == ["one", "two", "three"]


def test_documents_that_a_tool_has_joined() -> None:
    texts = ["  A title\n\nwords", "more\nwords", "the last ones"]
    for separator in ("<|endoftext|>", " <|endoftext|> ", "\n<|endoftext|>\n"):
        joined = separator.join(texts)
        assert [d.strip(" ") for d in documents(joined)] == [text.strip(" ") for text in texts]
    assert next(documents("<|endoftext|>\n  A title")) == "  A title"  # an indented first line


def test_an_empty_document_is_none() -> None:
    text = "one\n<|endoftext|>\n<|endoftext|>\ntwo\n"
    assert list(documents(text)) == ["one", "two"]


@pytest.mark.parametrize(
    "text",
    [
        "one\r\n<|endoftext|>\r\ntwo\r\n",
        "one\r<|endoftext|>\rtwo",
        "\ufeff<|endoftext|>\none\n<|endoftext|> \t\ntwo",
        "one\n<|endoftext|>\n\n<|endoftext|>\n<|endoftext|>\ntwo\n<|endoftext|>",
    ],
)
def test_separators_are_found_whatever_the_line_ends(text: str) -> None:
    assert list(documents(text)) == ["one", "two"]


def test_every_document_is_followed_by_the_end_token(
    tmp_path: Path, text_file: Path, tokenizer: Tokenizer
) -> None:
    files = tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    both = np.concatenate([files.train, files.val])
    assert (both == tokenizer.end_token).sum() == len(list(documents(text_file.read_text())))
    assert files.train[-1] == files.val[-1] == tokenizer.end_token
    first = tokenizer.decode(files.train[: list(files.train).index(tokenizer.end_token)].tolist())
    assert first in text_file.read_text()


def test_tokens_are_mapped_from_disk_and_kept(
    tmp_path: Path, text_file: Path, tokenizer: Tokenizer
) -> None:
    files = tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    assert isinstance(files.train, np.memmap)
    assert files.train.dtype == np.uint16
    written = (tmp_path / "train.bin").stat().st_mtime_ns
    tokenize_files([text_file], tokenizer, tmp_path, 0.2)
    assert (tmp_path / "train.bin").stat().st_mtime_ns == written
    tokenize_files([text_file], tokenizer, tmp_path, 0.3)
    assert (tmp_path / "train.bin").stat().st_mtime_ns != written


def test_a_document_falls_where_its_hash_says_and_copies_are_dropped(
    tmp_path: Path, text_file: Path, tokenizer: Tokenizer
) -> None:
    copy = tmp_path / "copy.txt.xz"
    copy.write_bytes(
        lzma.compress(text_file.read_bytes().upper().replace(b"ENDOFTEXT", b"endoftext"))
    )
    once = tokenize_files([text_file], tokenizer, tmp_path / "a", 0.2)
    twice = tokenize_files([text_file, copy], tokenizer, tmp_path / "b", 0.2)
    assert np.array_equal(once.train, twice.train)
    assert np.array_equal(once.val, twice.val)
    texts = list(documents(text_file.read_text()))
    late = sum(hash_fraction(text) < 0.2 for text in texts)
    assert (once.val == tokenizer.end_token).sum() == late


def test_one_document_is_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "one.txt"
    path.write_text("win the prize " * 100)
    files = tokenize_files([path], tokenizer, tmp_path / "data", 0.25)
    text = tokenizer.decode(files.train[:-1].tolist()) + tokenizer.decode(files.val[:-1].tolist())
    assert text.strip() == ("win the prize " * 100).strip()
    assert len(tokenizer.decode(files.val[:-1].tolist())) == pytest.approx(350, abs=1)


@pytest.mark.parametrize("val_fraction", [0.001, 0.999])
def test_documents_are_cut_where_a_part_would_be_empty(
    tmp_path: Path, tokenizer: Tokenizer, val_fraction: float
) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    texts = ["win the prize " * 300, "mother is home " * 300]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    files = tokenize_files(paths, tokenizer, tmp_path / "data", val_fraction)
    end = tokenizer.end_token
    pieces = [
        [tokenizer.decode(p[p != end].tolist()) for p in np.split(part, np.where(part == end)[0])]
        for part in (files.train, files.val)
    ]
    assert [train + val for train, val in zip(*pieces, strict=True)][:2] == texts
    assert [source["documents"] for source in files.sources] == [1, 1]
    assert len(pieces[1][0]) == pytest.approx(len(texts[0]) * val_fraction, abs=1)


def test_a_text_too_short_to_be_split(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"a\.txt: the text is too short"):
        tokenize_files([tmp_path / "a.txt"], tokenizer, tmp_path / "data", 0.1)


def test_windows_are_views_with_the_next_token_as_target() -> None:
    tokens = np.arange(11, dtype=np.uint16)
    windows = Windows(tokens, length=4, stride=3)
    assert len(windows) == 3
    inputs, targets = windows.batch([0, 2])
    assert inputs.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert targets.tolist() == [[1, 2, 3, 4], [7, 8, 9, 10]]
    assert len(Windows(tokens[:4], 4, 4)) == 0
    assert len(Windows(tokens[:5], 4, 4)) == 1


def test_windows_do_not_cross_bounds() -> None:
    tokens = np.arange(20, dtype=np.uint16)
    windows = Windows(tokens, length=4, stride=2, bounds=[0, 3, 10, 20])
    assert windows.counts == [0, 2, 3]
    inputs, targets = windows.batch(range(len(windows)))
    assert inputs[:, 0].tolist() == [3, 5, 10, 12, 14]
    assert targets[:, -1].tolist() == [7, 9, 14, 16, 18]


def test_windows_of_a_file_larger_than_memory_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte of which no block is on the disk
    windows = Windows(np.memmap(path, np.uint16, mode="r"), 512, 512)
    assert len(windows) == (2**39 - 1) // 512
    inputs, _ = windows.batch([0, len(windows) - 1])
    assert inputs.shape == (2, 512)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"caf\xe9", "not UTF-8 text"),
        ("a.txt.xz", b"not xz", "cannot be read"),
        ("a.txt.xz", lzma.compress(b"text" * 100)[:-20], "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_text(path)
    assert str(path) in str(error.value)
