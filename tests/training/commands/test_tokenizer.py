"""`penwright-train tokenizer`: merges that compress, in a file that gives the same tokens again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import DataError, UsageError
from model.tokenizer import Tokenizer
from training.data.vocabulary import load_tokenizer, train_tokenizer


def test_text_survives_and_gets_shorter(tokenizer: Tokenizer, text_file: Path) -> None:
    for text in (text_file.read_text(), "Ünïcode, 12345 and\n\ttabs 👍 <|endoftext|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    text = text_file.read_text()
    assert len(tokenizer.encode(text)) < len(text) / 3
    assert tokenizer.vocab_size == 400
    assert tokenizer.end_token not in tokenizer.encode("<|endoftext|>")


def test_the_saved_file_gives_the_same_tokens(tokenizer: Tokenizer, tokenizer_file: Path) -> None:
    assert load_tokenizer(str(tokenizer_file)).sha256 == tokenizer.sha256


def test_the_command(tmp_path: Path, text_file: Path, cli: Callable[..., tuple[int, str]]) -> None:
    out = tmp_path / "own.tiktoken"
    assert cli("tokenizer", "--data", text_file, "--vocab-size", 300, "--out", out) == (0, "")
    assert load_tokenizer(str(out)).vocab_size == 300


def test_bad_sizes(text_file: Path) -> None:
    with pytest.raises(UsageError, match="--vocab-size is 256"):
        train_tokenizer(["text"], 256)
    with pytest.raises(DataError, match="needs more text"):
        train_tokenizer([text_file.read_text()], 100_000)


def test_missing_settings(tmp_path: Path, tokenizer_file: Path) -> None:
    alone = tmp_path / "own.tiktoken"
    alone.write_bytes(tokenizer_file.read_bytes())
    with pytest.raises(UsageError, match=r"own\.tiktoken\.json is missing"):
        load_tokenizer(str(alone))
