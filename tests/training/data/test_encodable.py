"""Rows with a character that the vocabulary has no token for: counted and named, never changed."""

import pytest

from model.errors import DataError, TextError
from model.prompts import Alpaca
from model.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer
from training.data.conversations import Instruction
from training.data.encodable import check_encodable, encodable
from training.data.labelled import Example
from training.objectives.conversations import encode
from training.objectives.labels import encode as encode_texts

# No byte 0xC5, with which ő and its neighbours begin.
LACKING = Tokenizer(
    {bytes([i]): i for i in range(256) if i != 0xC5}, GPT2_PATTERN, {END_OF_TEXT: 256}
)
WHOLE = Tokenizer({bytes([i]): i for i in range(256)}, GPT2_PATTERN, {END_OF_TEXT: 256})
TEXTS = ["one", "tw\u0151", "three", "f\u0151ur"]


def test_they_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert encodable(TEXTS, lambda text: [text], LACKING, "documents") == ["one", "three"]
    said = capsys.readouterr().err
    assert "2 of 4 documents are left out" in said
    assert "'tw\u0151': the tokenizer has no token for U+0151" in said


def test_a_whole_vocabulary_takes_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert encodable(TEXTS, lambda text: [text], WHOLE) == TEXTS
    check_encodable(TEXTS, WHOLE)
    assert not capsys.readouterr().err


def test_many_are_named_by_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert encodable([f"{i}\u0151" for i in range(40)], lambda text: [text], LACKING) == []
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("40 of 40 rows")
    assert len(said) == 7
    assert said[-1].strip() == "…"


def test_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Instruction("say", "", "a"), Instruction("say", "\u0151", "b")]
    pairs = encode(rows, LACKING, 512, Alpaca())
    assert pairs.rows == (rows[0],)
    assert not pairs.too_long
    assert "1 of 2 rows are left out" in capsys.readouterr().err
    assert all(token < 257 for pair in pairs.found for token in pair.tokens)


def test_texts_that_are_measured_are_refused() -> None:
    """None may be missing from a measurement."""
    examples = [Example(text=text, label="spam") for text in TEXTS]
    with pytest.raises(DataError, match=r"2 of 4 texts cannot be tokenized.*'tw\u0151'.*U\+0151"):
        encode_texts(examples, ("ham", "spam"), LACKING, 64)


def test_nothing_becomes_a_special_token() -> None:
    with pytest.raises(TextError, match=r"U\+0151"):
        LACKING.encode("\u0151")
    assert LACKING.encode(END_OF_TEXT) == list(END_OF_TEXT.encode())
