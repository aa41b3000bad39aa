"""The tokenizer: user text is ordinary text, any text survives, streams have whole characters."""

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CheckpointError, TextError
from model.tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    StreamDecoder,
    Tokenizer,
    byte_of_character,
)
from model.tokenizer.merges import BytePairs

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
    assert tokenizer.decode([256, tokenizer.end_token]) == "th"


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

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda lines: [], "the bytes"),
            (lambda lines: [b"\xef\xbb\xbf" + lines[0], *lines[1:]], "line 1"),
            (lambda lines: [*lines[:-1], b"YWI= 256"], "line 260 has a token or a rank"),
            (lambda lines: [*lines, b"YQ== 300"], "line 261 has a token or a rank"),
            (lambda lines: [*lines, b" 300"], "line 261"),
            (lambda lines: [*lines, b"YWI= -1"], "line 261"),
            (lambda lines: [*lines, b"YWI= 1_000"], "line 261"),
            (lambda lines: [*lines, b"YWI= 1099511627776"], "line 261"),
            (lambda lines: [*lines, b"YWI= 999999999"], "999999999"),
            (lambda lines: [*lines, b"YWI=  300"], "line 261"),
            (lambda lines: [*lines, b"YWI= 260"], "the id 260 stands for"),
            (lambda lines: lines[:97] + lines[98:], "no token for the bytes [97]"),
            (lambda lines: lines[:200], "no token for the bytes [200, 201"),
        ],
    )
    def test_what_is_wrong_in_a_file(
        self, path: Path, tokenizer: Tokenizer, change: Any, said: str
    ) -> None:
        path.write_bytes(b"\n".join(change(path.read_bytes().split(b"\n")[:-1])))
        with pytest.raises(CheckpointError) as caught:
            Tokenizer.from_file(path, tokenizer.settings())
        assert "tokenizer.tiktoken: not a usable tokenizer" in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"pattern": None}, "pattern"),
            ({"pattern": 5}, "pattern is 5"),
            ({"pattern": ""}, "pattern is empty"),
            ({"pattern": "("}, "tiktoken cannot use it"),
            ({"pattern": "\ud800"}, "tiktoken cannot use it"),
            ({"special_tokens": [END_OF_TEXT]}, "special_tokens"),
            ({"special_tokens": {END_OF_TEXT: "260"}}, "'260'"),
            ({"special_tokens": {END_OF_TEXT: -1}}, "-1"),
            ({"special_tokens": {END_OF_TEXT: 2**40}}, str(2**40)),
            ({"special_tokens": {END_OF_TEXT: 97}}, "97"),
            ({"special_tokens": {END_OF_TEXT: 256}}, "256"),
            ({"special_tokens": {END_OF_TEXT: 260, "<x>": 260}}, "both have the id 260"),
            ({"special_tokens": {}}, "endoftext"),
            ({"missing_bytes": [97]}, "its settings name [97]"),
            ({"missing_bytes": 97}, "missing_bytes"),
            ({"patern": "."}, "patern"),
            ({"kind": "sentencepiece"}, "unknown fields"),
        ],
    )
    def test_what_is_wrong_in_the_settings(
        self, path: Path, tokenizer: Tokenizer, settings: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(CheckpointError) as caught:
            Tokenizer.from_file(path, {**tokenizer.settings(), **settings})
        assert "tokenizer.tiktoken: not a usable tokenizer" in str(caught.value)
        assert said in str(caught.value)

    def test_ids_with_gaps_are_as_good(self, path: Path) -> None:
        ranks = {bytes([i]): 2 * i for i in range(256)} | {b"ab": 1001}
        gaps = Tokenizer(ranks, GPT2_PATTERN, {END_OF_TEXT: 2000})
        path.write_bytes(gaps.file_content())
        again = Tokenizer.from_file(path, gaps.settings())
        assert again.encode("abc") == [1001, 198]
        assert again.decode([1001, 198, 2000]) == "abc"
        assert again.vocab_size == 2001

    def test_bytes_that_are_missing_on_purpose(self, path: Path) -> None:
        ranks = {bytes([i]): i for i in range(256) if i not in (0xC3, 7)}
        few = Tokenizer(ranks, GPT2_PATTERN, {END_OF_TEXT: 300})
        assert few.settings()["missing_bytes"] == [7, 0xC3]
        path.write_bytes(few.file_content())
        again = Tokenizer.from_file(path, few.settings())
        assert again.sha256 == few.sha256
        assert again.encode("a€") == list("a€".encode())
        for text, named in (("aé€", "U+00E9 'é'"), ("a\x07", r"U+0007 '\x07'")):
            with pytest.raises(TextError) as caught:
                again.encode(text)
            assert named in str(caught.value)
        with pytest.raises(CheckpointError, match="holds a byte that no token stands for"):
            Tokenizer({**ranks, "é".encode(): 290}, GPT2_PATTERN, {END_OF_TEXT: 300})

    def test_a_directory(self, path: Path, tokenizer: Tokenizer) -> None:
        again = Tokenizer.from_file(path.parent, tokenizer.settings())
        assert again.sha256 == tokenizer.sha256


class TestTokenizerJson:
    """A tokenizer that tiktoken cannot express, as a checkpoint has it."""

    @pytest.fixture
    def nfc(self) -> Tokenizer:
        ranks = {bytes([byte]): byte for byte in range(256)}
        tokens = dict(byte_of_character())
        pairs = BytePairs(tokens, (), GPT2_PATTERN, nfc=True)
        return Tokenizer(ranks, GPT2_PATTERN, {END_OF_TEXT: 256, "<|im_end|>": 257}, pairs=pairs)

    def test_round_trip(self, nfc: Tokenizer, tmp_path: Path) -> None:
        path = tmp_path / nfc.file_name
        path.write_bytes(nfc.file_content())
        again = Tokenizer.from_file(path, nfc.settings())
        assert path.name == "tokenizer.json"
        assert again.sha256 == nfc.sha256
        assert again.special == nfc.special
        assert again.encode("e\u0301<|im_end|>") == list("é<|im_end|>".encode())

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"kind": "tiktoken"}, "kind is 'tiktoken'"),
            ({"kind": None}, "kind is None"),
            ({"pattern": "."}, "unknown fields ['pattern']"),
            ({"special_tokens": {END_OF_TEXT: 256}}, "its special tokens are"),
            ({"special_tokens": {END_OF_TEXT: 256, "<|im_end|>": 300}}, "its special tokens are"),
        ],
    )
    def test_refusals(
        self, nfc: Tokenizer, tmp_path: Path, settings: dict[str, Any], said: str
    ) -> None:
        path = tmp_path / nfc.file_name
        path.write_bytes(nfc.file_content())
        with pytest.raises(CheckpointError) as caught:
            Tokenizer.from_file(path, {**nfc.settings(), **settings})
        assert "tokenizer.json: not a usable tokenizer" in str(caught.value)
        assert said in str(caught.value)

    def test_the_package_is_not_there(
        self, nfc: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / nfc.file_name
        path.write_bytes(nfc.file_content())
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(CheckpointError, match="needs the package tokenizers"):
            Tokenizer.from_file(path, nfc.settings())


class TestPanics:
    """What goes wrong in a library written in Rust is no `Exception` there."""

    class PanicException(BaseException):  # as pyo3 names it
        pass

    @pytest.mark.parametrize("ranks", [{b"a": 2**70}, {b"a": -1}, {"a": 0}, {b"a": 0, b"b": 0}])
    def test_at_construction(self, ranks: Any) -> None:
        with pytest.raises(CheckpointError):
            Tokenizer(ranks, GPT2_PATTERN, {END_OF_TEXT: 1})

    def test_of_the_library_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def panic(*_: object, **__: object) -> None:
            raise self.PanicException("the two maps are of another length")

        monkeypatch.setattr("tiktoken.Encoding.__init__", panic)
        with pytest.raises(CheckpointError, match="the two maps are of another length"):
            Tokenizer({bytes([i]): i for i in range(256)}, GPT2_PATTERN, {END_OF_TEXT: 256})

    def test_a_long_run_of_white_space(self, tokenizer: Tokenizer) -> None:
        for text in (" " * 1_500_000 + "a", "\n" * 1_500_000 + "a"):
            for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch(["", text])):
                with pytest.raises(TextError, match="run of white space too long"):
                    encode(text)

    def test_others_say_what_they_are(
        self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def panic(*_: object) -> None:
            raise self.PanicException("index\nout of bounds")

        monkeypatch.setattr(tokenizer._backend._encoding, "encode_ordinary", panic)  # type: ignore[attr-defined]
        with pytest.raises(TextError, match="cannot be tokenized: index out of bounds"):
            tokenizer.encode("a")

    def test_what_is_no_panic_is_left_alone(
        self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(tokenizer._backend._encoding, "encode_ordinary", stop)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            tokenizer.encode("a")

    def test_a_pattern_that_takes_for_ever(self) -> None:
        """Somebody else's: `tokenizers` gives up, with a panic."""
        tokens = dict(byte_of_character())
        pairs = BytePairs(tokens, (), r"(a+)+$b")
        ranks = {bytes([byte]): byte for byte in range(256)}
        slow = Tokenizer(ranks, pairs.pattern, {END_OF_TEXT: 256}, pairs=pairs)
        with pytest.raises(TextError, match="too long for the tokenizer's pattern"):
            slow.encode("a" * 60)
        assert slow.encode("aab") == [97, 97, 98]


def test_a_pattern_that_leaves_something_out() -> None:
    """tiktoken drops what no piece holds."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    letters = Tokenizer(ranks, r"\p{L}+", {END_OF_TEXT: 256})
    assert letters.encode("abc") == [97, 98, 99]
    for text in ("a b", "1", "\ud800"):
        with pytest.raises(TextError, match="leaves out a part"):
            letters.encode(text)


def test_half_a_surrogate_pair(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_long_lines_of_a_file_are_cut_in_errors(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "tokenizer.tiktoken"
    path.write_bytes(base64.b64encode(b"x" * 100_000) + b" x\n")
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_file(path, tokenizer.settings())
    assert len(str(caught.value)) < 400


def test_a_tokenizer_has_an_end_token() -> None:
    with pytest.raises(CheckpointError, match="endoftext"):
        Tokenizer({bytes([byte]): byte for byte in range(256)}, GPT2_PATTERN, {})


def test_the_byte_alphabet_is_that_of_tokenizers() -> None:
    from tokenizers import pre_tokenizers

    table = byte_of_character()
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(table.values()) == list(range(256))
    assert (table["Ġ"], table["Ċ"], table["a"]) == (32, 10, 97)
