"""The tokenizer: user text is ordinary text, any text survives, streams have whole characters."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CheckpointError
from model.tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    StreamDecoder,
    Tokenizer,
    byte_of_character,
)

THOROUGH = settings(derandomize=True, max_examples=200, deadline=None)


def test_the_end_token_cannot_be_typed(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(f"a{END_OF_TEXT}b")
    assert tokenizer.end_token not in tokens
    assert tokenizer.decode(tokens) == "a<|endoftext|>b"
    assert tokenizer.encode_batch([END_OF_TEXT]) == [tokenizer.encode(END_OF_TEXT)]
    assert tokenizer.end_token not in tokenizer.encode(END_OF_TEXT)


def test_merges(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("th than") == [256, 257, 258]
    assert tokenizer.vocab_size == 261
    assert tokenizer.decode([256, tokenizer.end_token]) == "th<|endoftext|>"


@THOROUGH
@given(text=st.text())
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert max(tokens, default=0) < tokenizer.end_token
    assert tokenizer.encode_batch([text, "th"]) == [tokens, [256]]


def test_bytes_that_are_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([255, 97]) == "\ufffda"
    with pytest.raises(KeyError):
        tokenizer.decode([261])


@THOROUGH
@given(text=st.text())
def test_a_stream_has_whole_characters_only(tokenizer: Tokenizer, text: str) -> None:
    decoder, pieces = StreamDecoder(tokenizer), []
    for token in tokenizer.encode(text):
        pieces.append(decoder.push(token))
        assert text.startswith("".join(pieces)), "a character was sent before it was whole"
    assert "".join(pieces) == text
    assert decoder.flush() == ""


@THOROUGH
@given(tokens=st.lists(st.integers(0, 259)))
def test_a_stream_of_any_tokens_ends_as_the_whole(tokenizer: Tokenizer, tokens: list[int]) -> None:
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokens]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(tokens)


def test_what_never_became_a_character_is_flushed(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    euro = "€".encode()
    assert [decoder.push(byte) for byte in euro] == ["", "", "€"]
    assert [decoder.push(byte) for byte in euro[:2]] == ["", ""]
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


class TestFile:
    @pytest.fixture
    def path(self, tokenizer: Tokenizer, tmp_path: Path) -> Path:
        path = tmp_path / "tokenizer.tiktoken"
        path.write_bytes(tokenizer.file_content())
        return path

    def test_round_trip(self, tokenizer: Tokenizer, path: Path) -> None:
        again = Tokenizer.from_file(path, tokenizer.settings())
        assert again.encode("the thing é") == tokenizer.encode("the thing é")
        assert again.sha256 == tokenizer.sha256
        assert again.end_token == 260

    def test_another_pattern_is_another_tokenizer(self, tokenizer: Tokenizer, path: Path) -> None:
        other = Tokenizer.from_file(path, {**tokenizer.settings(), "pattern": "."})
        assert other.sha256 != tokenizer.sha256

    @pytest.mark.parametrize(
        "content", [b"YQ==", b"YQ== x\n", b"?? 1\n", b"\xff\xfe 1\n", b"YQ== 1 2\n"]
    )
    def test_what_is_no_tokenizer(self, path: Path, tokenizer: Tokenizer, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"tokenizer\.tiktoken: not a usable tokenizer"):
            Tokenizer.from_file(path, tokenizer.settings())

    @pytest.mark.parametrize("field", ["pattern", "special_tokens"])
    def test_settings_that_lack_a_field(self, path: Path, tokenizer: Tokenizer, field: str) -> None:
        values = tokenizer.settings()
        del values[field]
        with pytest.raises(CheckpointError, match=field):
            Tokenizer.from_file(path, values)

    def test_a_file_that_is_missing(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        with pytest.raises(CheckpointError, match="none"):
            Tokenizer.from_file(tmp_path / "none", tokenizer.settings())


def test_a_tokenizer_has_an_end_token() -> None:
    with pytest.raises(CheckpointError, match="endoftext"):
        Tokenizer({bytes([byte]): byte for byte in range(256)}, GPT2_PATTERN, {})


def test_the_byte_alphabet_is_that_of_tokenizers() -> None:
    from tokenizers import pre_tokenizers

    table = byte_of_character()
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(table.values()) == list(range(256))
    assert (table["Ġ"], table["Ċ"], table["a"]) == (32, 10, 97)
