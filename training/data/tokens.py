"""Text as a memory-mapped file of tokens, and windows over it.

Each document begins as the tokenizer begins every text, and is followed by the token that ends a
document. Tokens are written to disk once, two bytes each (four where there are more than 65,536),
and mapped from there: data may be larger than memory, and a window costs nothing until it is read.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.checkpoint.atomic import write_file, writing
from model.errors import DataError
from model.tokenizer import Tokenizer
from training.data.documents import documents, file_sha256, hash_fraction, read_text, text_hash
from training.data.encodable import encodable

Tokens = npt.NDArray[np.integer]

SPLIT_RULE = (
    "a document is validation when the SHA-256 of its lower-cased, space-normalised text, read as "
    "a fraction, is below val_fraction; where that leaves a part empty, as with a single document, "
    "the last val_fraction of each document is"
)
"""For cards."""

_PARTS = ("train", "val")

_VERSION = 4  # of the token files: raise it when they, or what is kept of them, change


@dataclass(frozen=True)
class TokenFiles:
    """Tokenized text, split into a training and a validation part."""

    train: Tokens
    val: Tokens
    sources: tuple[dict[str, object], ...]
    """Name, SHA-256 and number of documents of each file, and tokens of its training part."""
    cut: bool = False
    """Whether each document gave its beginning to training and its end to validation."""

    @property
    def bounds(self) -> list[int]:
        """Where the training part of each file begins, and where the last one ends."""
        return [0, *accumulate(cast(int, source["train_tokens"]) for source in self.sources)]


def tokenize_files(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    directory: Path,
    val_fraction: float,
    encoding: str | None = None,
) -> TokenFiles:
    """Tokenize `paths` into `directory`, or map what an earlier call with the same input left.

    A document is in the validation part when the hash of its normalised text says so. Where that
    leaves a part empty, the last `val_fraction` of each document is. Repeated documents are kept
    once.

    Args:
        encoding: of the files, if they are not in UTF-8.

    Raises:
        DataError: a file cannot be used, or the text is too short to be split.
        PenwrightError: the tokens cannot be written; names the file.
    """
    digests = [file_sha256(path) for path in paths]
    key = hashlib.sha256(
        json.dumps(
            [_VERSION, digests, tokenizer.sha256, val_fraction, *([encoding] if encoding else [])]
        ).encode()
    ).hexdigest()
    meta = _kept(directory, key)
    if meta is None:
        meta_file = directory / "meta.json"
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            meta_file.unlink(missing_ok=True)
        written = _write_tokens(paths, digests, tokenizer, directory, val_fraction, encoding)
        meta = {"key": key, **written}
        write_file(meta_file, json.dumps({**meta, "sha256": _sha256(meta)}).encode())
    dtype = np.dtype(meta["dtype"])
    return TokenFiles(
        train=np.memmap(directory / "train.bin", dtype, mode="r"),
        val=np.memmap(directory / "val.bin", dtype, mode="r"),
        sources=tuple(meta["sources"]),
        cut=meta["cut"],
    )


def _kept(directory: Path, key: str) -> dict[str, Any] | None:
    """What `meta.json` says of tokens that an earlier call left; None if they are of another input,
    or damaged, which is said on stderr."""
    file = directory / "meta.json"
    try:
        meta: dict[str, Any] = json.loads(file.read_bytes())
        if meta["key"] != key:
            return None
        if meta.pop("sha256") != _sha256(meta):
            raise ValueError("it was altered")
        for part in _PARTS:
            file = directory / f"{part}.bin"
            if file.stat().st_size != meta["files"][part]["bytes"]:
                raise ValueError("its size is another")
            if file_sha256(file) != meta["files"][part]["sha256"]:
                raise ValueError("it was altered")
    except (OSError, ValueError, LookupError, TypeError, DataError) as error:
        if directory.exists() and any(directory.iterdir()):
            why = "it is incomplete" if isinstance(error, LookupError | TypeError) else error
            print(f"{file}: is damaged ({why}); the text is tokenized again", file=sys.stderr)
        return None
    return meta


def _sha256(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _write_tokens(
    paths: Sequence[Path],
    digests: Sequence[str],
    tokenizer: Tokenizer,
    directory: Path,
    val_fraction: float,
    encoding: str | None,
    *,
    cut: bool = False,
) -> dict[str, Any]:
    """Write both parts and return what `meta.json` holds. With `cut`, each document gives its end
    to the validation part."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    seen: set[str] = set()
    sources = []
    sizes = dict.fromkeys(_PARTS, 0)
    digest_of = {part: hashlib.sha256() for part in _PARTS}
    with contextlib.ExitStack() as stack:
        files = {}
        for part in _PARTS:
            path = directory / f"{part}.bin"
            stack.enter_context(writing(path))  # closing writes, too
            files[part] = stack.enter_context(path.open("wb"))

        def write(part: str, texts: list[str]) -> None:
            texts = encodable(texts, lambda text: [text], tokenizer, "documents")
            with writing(directory / f"{part}.bin"):
                for tokens in tokenizer.encode_batch(texts):
                    row = [*tokenizer.prefix, *tokens, tokenizer.end_token]
                    content = np.array(row, dtype).tobytes()
                    files[part].write(content)
                    digest_of[part].update(content)
                    sizes[part] += len(row)
                files[part].flush()

        for path, digest in zip(paths, digests, strict=True):
            before, before_tokens = len(seen), sizes["train"]
            parts: dict[str, list[str]] = {part: [] for part in _PARTS}
            for document in documents(read_text(path, encoding)):
                identity = text_hash(document)
                if identity not in seen:
                    seen.add(identity)
                    for part, text in _split(document, val_fraction, cut):
                        parts[part].append(text)
            for part, texts in parts.items():
                for start in range(0, len(texts), 256):
                    write(part, texts[start : start + 256])
            sources.append(
                {
                    "file": path.name,
                    "sha256": digest,
                    "documents": len(seen) - before,
                    "train_tokens": sizes["train"] - before_tokens,
                }
            )
    if all(sizes.values()):
        written = {
            part: {"bytes": sizes[part] * dtype.itemsize, "sha256": digest_of[part].hexdigest()}
            for part in _PARTS
        }
        return {"dtype": dtype.name, "sources": sources, "files": written, "cut": cut}
    if not cut:
        return _write_tokens(paths, digests, tokenizer, directory, val_fraction, encoding, cut=True)
    raise DataError(
        f"{', '.join(str(path) for path in paths)}: the text is too short to be split; "
        "give more of it or another --val-fraction"
    )


def _split(document: str, val_fraction: float, cut: bool) -> list[tuple[str, str]]:
    """A document, or its two pieces, each with its part."""
    if not cut:
        return [("val" if hash_fraction(document) < val_fraction else "train", document)]
    end = int(len(document) * (1 - val_fraction))
    pieces = (("train", document[:end]), ("val", document[end:]))
    return [(part, text) for part, text in pieces if text]


class Windows:
    """Windows of `length` tokens, `stride` apart, each with the same tokens one further as targets.

    A window of tokens t[s : s + length] has the targets t[s + 1 : s + length + 1].

    Args:
        bounds: cuts the tokens into pieces, one after another, which no window crosses; the index
            of each piece's first token and, last, that of the end. All of the tokens by default.
    """

    def __init__(
        self, tokens: Tokens, length: int, stride: int, bounds: Sequence[int] | None = None
    ) -> None:
        self.tokens = tokens
        self.length = length
        self.stride = stride
        pieces = list(pairwise([0, len(tokens)] if bounds is None else bounds))
        self.counts = [max(0, (end - first - 1 - length) // stride + 1) for first, end in pieces]
        """Windows of each piece."""
        self._pieces = np.array([first for first, _ in pieces])
        self._offsets = np.cumsum([0, *self.counts])

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and targets, both (len(indices), length) int64."""
        numbers = np.asarray(indices)
        pieces = np.searchsorted(self._offsets, numbers, side="right") - 1
        starts = self._pieces[pieces] + (numbers - self._offsets[pieces]) * self.stride
        rows = np.stack([self.tokens[s : s + self.length + 1] for s in starts]).astype(np.int64)
        both = torch.from_numpy(rows)
        return both[:, :-1], both[:, 1:]
