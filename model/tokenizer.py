"""Byte-pair encoding with tiktoken, and decoding of a stream.

A checkpoint carries its tokenizer as two things: `tokenizer.tiktoken`, which is tiktoken's own file
of merge ranks, and in `config.json` the splitting pattern and the special tokens. Nothing is
downloaded when it is loaded.

Text of users is always encoded as ordinary text: whoever types `<|endoftext|>` gets the tokens of
those characters and neither an exception nor the end token.
"""

import base64
import codecs
import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from model.errors import CheckpointError, TextError, UsageError

END_OF_TEXT = "<|endoftext|>"

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""  # noqa: RUF100
"""How GPT-2 cuts text into the pieces within which pairs are merged."""

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""The same with single digits: a number then always has as many tokens as digits, which a small
model learns to copy and compare far more easily than GPT-2's irregular groups."""


class Tokenizer:
    """Text to token ids and back.

    Args:
        ranks: the id of each byte string; lower ids are merged first. Holds all 256 single bytes.
        pattern: regular expression that cuts text into pieces.
        special_tokens: ids of tokens that text never encodes to; has `<|endoftext|>`.
    """

    def __init__(
        self, ranks: dict[bytes, int], pattern: str, special_tokens: dict[str, int]
    ) -> None:
        if END_OF_TEXT not in special_tokens:
            raise CheckpointError(f"the tokenizer has no {END_OF_TEXT} token")
        self.ranks = ranks
        self.pattern = pattern
        self.special_tokens = special_tokens
        self._encoding = tiktoken.Encoding(
            "penwright", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens
        )

    @property
    def encoding(self) -> tiktoken.Encoding:
        """The same as tiktoken has it."""
        return self._encoding

    @property
    def vocab_size(self) -> int:
        return self._encoding.n_vocab

    @property
    def end_token(self) -> int:
        """Ends a document and a response."""
        return self.special_tokens[END_OF_TEXT]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, all of it taken as ordinary text.

        Raises:
            TextError: it has a run of white space of about a million characters.
        """
        with _panics_as_errors():
            return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], threads: int = 2) -> list[list[int]]:
        """Token ids of each text, on several threads."""
        with _panics_as_errors():
            return self._encoding.encode_ordinary_batch(list(texts), num_threads=threads)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`; bytes that are not UTF-8 become U+FFFD.

        Raises:
            KeyError: an id is not in the vocabulary.
        """
        return self._encoding.decode_bytes(list(tokens)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return self._encoding.decode_single_token_bytes(token)

    @cached_property
    def sha256(self) -> str:
        """Identifies the encoding: equal hashes give equal tokens."""
        text = f"{self.file_content().decode()}{self.pattern}{sorted(self.special_tokens.items())}"
        return hashlib.sha256(text.encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """What belongs into `config.json` beside the file of ranks."""
        return {"pattern": self.pattern, "special_tokens": self.special_tokens}

    def file_content(self) -> bytes:
        """tiktoken's format: a line of base64 bytes and rank for each token, by rank."""
        lines = sorted(self.ranks.items(), key=lambda item: item[1])
        return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in lines)

    @classmethod
    def from_file(cls, path: Path, settings: dict[str, Any]) -> "Tokenizer":
        """Load what `file_content` and `settings` gave.

        Raises:
            CheckpointError: the file is no tiktoken file or the settings lack a field.
        """
        try:
            ranks = {}
            for line in path.read_bytes().splitlines():
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            return cls(ranks, settings["pattern"], dict(settings["special_tokens"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise CheckpointError(f"{path}: not a usable tokenizer: {error}") from error

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """GPT-2's own encoding; tiktoken downloads its vocabulary once and then caches it."""
        try:
            encoding = tiktoken.get_encoding("gpt2")
        except Exception as error:  # requests, tiktoken and the OS each raise their own here
            raise UsageError(
                "--tokenizer gpt2: the vocabulary is not cached and cannot be downloaded "
                f"({type(error).__name__}); set TIKTOKEN_CACHE_DIR or name a tokenizer file"
            ) from error
        return cls(
            encoding._mergeable_ranks,
            GPT2_PATTERN,
            {END_OF_TEXT: encoding._special_tokens[END_OF_TEXT]},
        )


@contextlib.contextmanager
def _panics_as_errors() -> Iterator[None]:
    """tiktoken's regular expressions overflow on huge runs of white space, and the panic that
    follows is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TextError("the text has a run of white space too long to tokenize") from None


class StreamDecoder:
    """Text of a growing token sequence, never with a broken character.

    A character can span several tokens: its bytes are held back until it is whole. `flush` gives
    what is left at the end, where bytes that never became a character are U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def byte_of_character() -> dict[str, int]:
    """The characters by which GPT-2's files, and `tokenizers` after them, write bytes: printable
    Latin-1 stands for itself, the others follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table
