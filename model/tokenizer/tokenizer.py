"""The tokenizer: text to token ids and back."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from model.errors import CheckpointError, TextError, UsageError
from model.tokenizer import files
from model.tokenizer.alphabet import byte_of_character, character_of_byte
from model.tokenizer.backends import (
    Backend,
    TiktokenBackend,
    TokenizersBackend,
    without_surrogates,
)
from model.tokenizer.merges import BytePairs, same_in_tiktoken
from model.tokenizer.patterns import GPT2_PATTERN, KNOWN_PATTERNS
from model.tokenizer.special import END_OF_TEXT, SpecialTokens, check_id


class Tokenizer:
    """Text to token ids and back.

    Args:
        ranks: the id of each byte string; lower ids are merged first.
        pattern: regular expression that cuts text into pieces.
        special_tokens: those that text never encodes to; or only their ids by their texts, among
            them one whose name says that it ends a document.
        pairs: the merges, where ids alone do not tell them; has the same ids and pattern.

    Raises:
        CheckpointError: an id is out of bounds or stands for two tokens, a role has no token, or
            the pattern is no regular expression.
    """

    def __init__(
        self,
        ranks: dict[bytes, int],
        pattern: str,
        special_tokens: Mapping[str, int] | SpecialTokens,
        *,
        pairs: BytePairs | None = None,
    ) -> None:
        if not isinstance(special_tokens, SpecialTokens):
            special_tokens = SpecialTokens.of(special_tokens)
        self.ranks = ranks
        self.pattern = pattern
        self.special = special_tokens
        self.pairs = pairs
        added = {} if pairs is None else pairs.added
        self._bytes = _bytes_by_id(
            ranks, {text: token.id for text, token in added.items()}, special_tokens.ids
        )
        self._names = {token: text for text, token in special_tokens.ids.items()}
        self.vocab_size = max(self._bytes) + 1
        """The largest id and one; some ids below it may stand for no token."""
        self.gaps = tuple(token for token in range(self.vocab_size) if token not in self._bytes)
        """Those ids."""
        self.missing_bytes = tuple(b for b in range(256) if bytes([b]) not in ranks)
        """Bytes that no token stands for: text with them cannot be encoded."""
        # Stand-ins, so that neither library drops such a byte: `encode` finds them and says so.
        self._absent = {self.vocab_size + i: bytes([b]) for i, b in enumerate(self.missing_bytes)}
        self._backend = self._make_backend()
        self._checks = bool(self._absent) or (pairs is None and pattern not in KNOWN_PATTERNS)

    def _make_backend(self) -> Backend:
        if self.pairs is not None:
            written = {character_of_byte()[b[0]]: token for token, b in self._absent.items()}
            return TokenizersBackend(self.pairs, written)
        missing = set(self.missing_bytes)
        for token, rank in self.ranks.items() if missing else ():
            if not missing.isdisjoint(token):
                raise CheckpointError(
                    f"the token {rank}, {token!r}, holds a byte that no token stands for"
                )
        return TiktokenBackend(
            {**self.ranks, **{b: token for token, b in self._absent.items()}}, self.pattern
        )

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by their texts."""
        return dict(self.special.ids)

    @property
    def end_token(self) -> int:
        """Ends a document."""
        return self.special.end_of_document

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, all of it taken as ordinary text.

        Raises:
            TextError: it has a character for whose bytes there are no tokens, or a run of white
                space of about a million characters.
        """
        tokens = self._backend.encode(text)
        if self._checks:
            self._check(text, tokens)
        return tokens

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of `text` as the model reads it: after the beginning token, if it has one
        before every text.

        Raises:
            TextError: as of `encode`.
        """
        return [*self.prefix, *self.encode(text)]

    @property
    def prefix(self) -> tuple[int, ...]:
        """What the model reads before every text: the beginning token, or nothing."""
        beginning = self.special.beginning
        return (beginning,) if self.special.adds_beginning and beginning is not None else ()

    def encode_batch(self, texts: Sequence[str], threads: int = 2) -> list[list[int]]:
        """Token ids of each text, on several threads; otherwise as `encode`."""
        rows = self._backend.encode_batch(texts, threads)
        if self._checks:
            for text, tokens in zip(texts, rows, strict=True):
                self._check(text, tokens)
        return rows

    def _check(self, text: str, tokens: list[int]) -> None:
        """Refuse a text of which something is missing from its tokens."""
        if max(tokens, default=0) >= self.vocab_size:
            contents = [self._absent.get(token) or self._bytes[token] for token in tokens]
            first = next(place for place, token in enumerate(tokens) if token in self._absent)
            content = b"".join(contents)
            start = len(b"".join(contents[:first]))
            while content[start] & 0xC0 == 0x80:  # within a character
                start -= 1
            character = content[start : start + 4].decode("utf-8", "ignore")[0]
            raise TextError(
                f"the tokenizer has no token for U+{ord(character):04X} {character!r}, or for a "
                "part of it"
            )
        if self.pairs is None and self.pattern not in KNOWN_PATTERNS:
            size = sum(len(self._bytes[token]) for token in tokens)
            if size != len(without_surrogates(text).encode()):
                raise TextError("the tokenizer's pattern leaves out a part of the text")

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`: special tokens have none, and bytes that are not UTF-8 become U+FFFD.

        Raises:
            KeyError: an id is not in the vocabulary.
        """
        content = b"".join(map(self._bytes.__getitem__, tokens))
        return content.decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token in a text; none for a special token, and none for an id below
        `vocab_size` that stands for no token, which a network can draw all the same.

        Raises:
            KeyError: the id is outside the vocabulary.
        """
        found = self._bytes.get(token)
        if found is None:
            if not 0 <= token < self.vocab_size:
                raise KeyError(token)
            return b""
        return found

    def token_name(self, token: int) -> str:
        """How a list of tokens shows one: its text, where bytes that are no whole character are
        U+FFFD; of a special token its name.

        Raises:
            KeyError: the id is outside the vocabulary.
        """
        if token in self._names:
            return self._names[token]
        content = self.token_bytes(token)
        return content.decode("utf-8", errors="replace") if content else f"<unused {token}>"

    @cached_property
    def sha256(self) -> str:
        """Identifies the encoding: equal hashes give equal tokens."""
        text = f"{self.file_content().decode()}{self.pattern}{sorted(self.special.ids.items())}"
        text += "".join(map(str, self.prefix))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """Of the file in a checkpoint that `file_content` goes into."""
        return files.TIKTOKEN if self.pairs is None else files.TOKENIZERS

    def settings(self) -> dict[str, Any]:
        """What belongs into `config.json` beside the file."""
        if self.pairs is not None:
            return {"kind": "tokenizers", **self.special.settings()}
        values: dict[str, Any] = {"pattern": self.pattern, **self.special.settings()}
        if self.missing_bytes:
            values["missing_bytes"] = list(self.missing_bytes)
        return values

    def file_content(self) -> bytes:
        """tiktoken's own file of ranks, or a `tokenizer.json`."""
        if self.pairs is None:
            return files.tiktoken_content(self.ranks)
        return files.tokenizers_content(self.pairs, self.special.ids)

    @classmethod
    def from_file(cls, path: Path, settings: dict[str, Any]) -> "Tokenizer":
        """Load what `file_content` and `settings` gave.

        Args:
            path: the file, or the directory that has it under its `file_name`.

        Raises:
            CheckpointError: the file or the settings lack something, contradict each other, or are
                wrong in any other way; names the file and says what.
        """
        if path.is_dir():
            path = path / (files.TOKENIZERS if "kind" in settings else files.TIKTOKEN)
        try:
            special = SpecialTokens.from_settings(settings, "its settings")
            if "kind" in settings:
                pairs = files.read_tokenizers(path, settings, special)
                return cls.of_pairs(pairs, special)
            ranks, pattern = files.read_tiktoken(path, settings)
            return cls(ranks, pattern, special)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: not a usable tokenizer: {error}") from error

    @classmethod
    def of_pairs(cls, pairs: BytePairs, special: SpecialTokens) -> "Tokenizer":
        """The tokenizer that encodes by these merges, with whichever library does so faster.

        Raises:
            CheckpointError: as of the class, or `tokenizers` is needed and not installed.
        """
        to_byte = byte_of_character()
        ranks = {bytes(map(to_byte.__getitem__, text)): rank for text, rank in pairs.tokens.items()}
        if same_in_tiktoken(pairs):
            return cls(ranks, pairs.pattern, special)
        return cls(ranks, pairs.pattern, special, pairs=pairs)

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


def _bytes_by_id(
    ranks: Mapping[bytes, int], added: Mapping[str, int], special: Mapping[str, int]
) -> dict[int, bytes]:
    """What each token stands for in a text, after the check that no id stands for two.

    Raises:
        CheckpointError: one does, or is out of bounds.
    """
    if not ranks:
        raise CheckpointError("has no tokens")
    found: dict[int, bytes] = {}
    every: list[tuple[object, int, bytes]] = [
        *((token, rank, token) for token, rank in ranks.items()),
        *((text, token, text.encode()) for text, token in added.items()),
        *((text, token, b"") for text, token in special.items()),
    ]
    for text, token, content in every:
        check_id(token, text)
        if token in found:
            raise CheckpointError(f"the id {token} stands for {text!r} and for another token")
        found[token] = content
    return found
