"""Tokens of documents, written to a training and a validation part as the documents come.

A long document is encoded in stretches of about a million characters, which end where the
tokenizer's pattern ends a piece whatever follows, so that its tokens are those of the whole.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from model.checkpoint.atomic import writing
from model.errors import DataError
from model.tokenizer import Tokenizer
from model.tokenizer.patterns import KNOWN_PATTERNS
from training.data.documents import fraction_of, text_hash
from training.data.encodable import encodable
from training.data.text_stream import TextFile, stream_documents

PARTS = ("train", "val")

_STRETCH = 2**20  # characters
_BATCH = 2**22  # characters of documents that are encoded together
_END_OF_PIECE = re.compile(r"(?<=\S)(?= )|(?<=[^\W_])(?=\n)")
"""Before a blank, or, after a letter or a digit, a line's end: in no known pattern does a piece go
on there, or look further."""


class Part:
    """One file of tokens, being written.

    Raises:
        PenwrightError: it cannot be written; names the file.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._dtype = dtype_of(tokenizer)
        self._waiting: list[str] = []
        self._characters = 0
        self._digest = hashlib.sha256()
        self.tokens = 0
        with writing(path):
            self._file = path.open("wb")

    def __enter__(self) -> "Part":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        with writing(self._path):  # closing writes, too
            self._file.close()

    @property
    def content(self) -> dict[str, object]:
        """Size and SHA-256 of the file."""
        size = self.tokens * self._dtype.itemsize
        return {"bytes": size, "sha256": self._digest.hexdigest()}

    def add(self, document: str) -> None:
        self._waiting.append(document)
        self._characters += len(document)
        if self._characters >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Encode and write the documents that wait for it."""
        texts = encodable(self._waiting, lambda text: [text], self._tokenizer, "documents")
        self._waiting, self._characters = [], 0
        short: list[str] = []
        for text in texts:
            if len(text) <= _STRETCH:
                short.append(text)
                continue
            self._write_all(short)
            short = []
            self._write([*self._tokenizer.prefix])
            for stretch in _stretches(text, self._tokenizer):
                self._write(self._tokenizer.encode(stretch))
            self._write([self._tokenizer.end_token])
        self._write_all(short)
        with writing(self._path):
            self._file.flush()

    def _write_all(self, texts: Sequence[str]) -> None:
        prefix, end = self._tokenizer.prefix, self._tokenizer.end_token
        for tokens in self._tokenizer.encode_batch(texts):
            self._write([*prefix, *tokens, end])

    def _write(self, tokens: Sequence[int]) -> None:
        content = np.array(tokens, self._dtype).tobytes()
        self._digest.update(content)
        self.tokens += len(tokens)
        with writing(self._path):
            self._file.write(content)


def dtype_of(tokenizer: Tokenizer) -> "np.dtype[Any]":
    """Of the files: as small as the vocabulary allows."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)


def write_tokens(
    files: Sequence[TextFile],
    tokenizer: Tokenizer,
    directory: Path,
    val_fraction: float,
    encoding: str | None,
    *,
    apart: Sequence[TextFile] = (),
    cut: bool = False,
) -> dict[str, Any]:
    """Write both parts and return what `meta.json` holds. With `cut`, each document gives its end
    to the validation part.

    Args:
        apart: files that validate; all others train then, but for documents that these have.

    Raises:
        DataError: a file cannot be used, or the text is too short to be split.
        PenwrightError: the tokens cannot be written; names the file.
    """
    seen: set[str] = set()
    sources: list[dict[str, object]] = []
    val_sources: list[dict[str, object]] = []
    paths = [directory / f"{part}.bin" for part in PARTS]
    with Part(paths[0], tokenizer) as train, Part(paths[1], tokenizer) as val:
        parts = dict(zip(PARTS, (train, val), strict=True))
        for number, file in enumerate([*apart, *files]):
            share = val_fraction
            if apart:
                share = 1.0 if number < len(apart) else 0.0
            before, before_tokens = len(seen), train.tokens
            for document in stream_documents(file.path, encoding, given=file.given):
                identity = text_hash(document)
                if identity not in seen:
                    seen.add(identity)
                    for part, text in _split(document, identity, share, cut):
                        parts[part].add(text)
            train.flush()
            val.flush()
            (val_sources if number < len(apart) else sources).append(
                {
                    "file": file.given.name,
                    "sha256": file.sha256,
                    "documents": len(seen) - before,
                    "train_tokens": train.tokens - before_tokens,
                }
            )
    if train.tokens and val.tokens:
        written = {name: part.content for name, part in parts.items()}
        dtype = dtype_of(tokenizer).name
        meta = {"dtype": dtype, "sources": sources, "files": written, "cut": cut}
        return {**meta, "val_sources": val_sources} if apart else meta
    if apart:
        raise DataError(
            f"{', '.join(str(file.given) for file in files)}: all documents are in --val, too"
            if not train.tokens
            else f"--val {', '.join(str(file.given) for file in apart)}: there is no text"
        )
    if not cut:
        return write_tokens(files, tokenizer, directory, val_fraction, encoding, cut=True)
    raise DataError(
        f"{', '.join(str(file.given) for file in files)}: the text is too short to be split; "
        "give more of it or another --val-fraction"
    )


def _split(document: str, identity: str, val_fraction: float, cut: bool) -> list[tuple[str, str]]:
    """A document, or its two pieces, each with its part."""
    if not cut:
        return [("val" if fraction_of(identity) < val_fraction else "train", document)]
    end = int(len(document) * (1 - val_fraction))
    pieces = (("train", document[:end]), ("val", document[end:]))
    return [(part, text) for part, text in pieces if text]


def _stretches(text: str, tokenizer: Tokenizer) -> Iterator[str]:
    """A long text in parts, whose tokens one after another are those of the text."""
    start = 0
    if tokenizer.pairs is None and tokenizer.pattern in KNOWN_PATTERNS:
        while found := _END_OF_PIECE.search(text, start + _STRETCH):
            yield text[start : found.start()]
            start = found.start()
    yield text[start:]
