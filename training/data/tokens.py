"""Text as a memory-mapped file of tokens, and windows over it.

Each document begins as the tokenizer begins every text, and is followed by the token that ends a
document. Tokens are written to disk once, two bytes each (four where there are more than 65,536),
and mapped from there: data may be larger than memory, and a window costs nothing until it is read.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.checkpoint.atomic import new_directory, write_file, writing
from model.errors import DataError, UsageError
from model.tokenizer import Tokenizer
from training.data.documents import file_sha256
from training.data.text_stream import TextFile, text_files
from training.data.token_writer import PARTS, write_tokens

Tokens = npt.NDArray[np.integer]

SPLIT_RULE = (
    "a document is validation when the SHA-256 of its lower-cased, space-normalised text, read as "
    "a fraction, is below val_fraction; where that leaves a part empty, as with a single document, "
    "the last val_fraction of each document is"
)
"""For cards."""

_META = "meta.json"

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
    val_sources: tuple[dict[str, object], ...] = ()
    """The same of files that validate alone."""

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
    *,
    val: Sequence[Path] = (),
    expected: Sequence[str] | None = None,
    cache: Path | None = None,
) -> TokenFiles:
    """Tokenize `paths` into `directory`, or map what an earlier call with the same input left.

    A document is in the validation part when the hash of its normalised text says so. Where that
    leaves a part empty, the last `val_fraction` of each document is. Repeated documents are kept
    once. No more than some documents are in memory at a time.

    Args:
        paths: files; what can be read but once, such as a pipe, is copied to `directory` meanwhile.
        encoding: of the files, if they are not in UTF-8.
        val: files that validate as a whole; `paths` then train as a whole.
        expected: the SHA-256 of each file in a run that is resumed, those of `val` first.
        cache: a directory that runs share, in place of `directory`: the tokens of the same files
            by the same tokenizer are there once. Several processes may use it at a time.

    Raises:
        DataError: a file cannot be used, or the text is too short to be split.
        UsageError: the files are not as `expected`.
        PenwrightError: the tokens cannot be written; names the file.
    """
    with text_files([*val, *paths], directory) as files:
        digests = [file.sha256 for file in files]
        if expected is not None and list(expected) != digests:
            raise UsageError("--resume: --data is not what the saved run was trained on")
        given = [_VERSION, digests, tokenizer.sha256, val_fraction]
        given += [encoding] if encoding else []
        content = json.dumps([*given, {"val": len(val)}] if val else given)
        key = hashlib.sha256(content.encode()).hexdigest()
        place = directory if cache is None else cache / key[:32]
        meta = _kept(place, key)
        if meta is None:
            make = partial(
                _make, files[len(val) :], tokenizer, val_fraction, encoding, key, files[: len(val)]
            )
            if cache is None:
                meta = make(place)
            else:
                with new_directory(place, last=_META) as temporary:
                    meta = make(temporary)
    dtype = np.dtype(meta["dtype"])
    return TokenFiles(
        train=np.memmap(place / "train.bin", dtype, mode="r"),
        val=np.memmap(place / "val.bin", dtype, mode="r"),
        sources=tuple(meta["sources"]),
        cut=meta["cut"],
        val_sources=tuple(meta.get("val_sources", ())),
    )


def _make(
    files: Sequence[TextFile],
    tokenizer: Tokenizer,
    val_fraction: float,
    encoding: str | None,
    key: str,
    val: Sequence[TextFile],
    directory: Path,
) -> dict[str, Any]:
    """Write the tokens, and then what is said of them, which is returned."""
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _META).unlink(missing_ok=True)
    written = write_tokens(files, tokenizer, directory, val_fraction, encoding, apart=val)
    meta = {"key": key, **written}
    write_file(directory / _META, json.dumps({**meta, "sha256": _sha256(meta)}).encode())
    return meta


def _kept(directory: Path, key: str) -> dict[str, Any] | None:
    """What `meta.json` says of tokens that an earlier call left; None if they are of another input,
    or damaged, which is said on stderr."""
    file = directory / _META
    if not file.exists():  # nothing is there, or it was not finished
        return None
    try:
        meta: dict[str, Any] = json.loads(file.read_bytes())
        if meta["key"] != key:
            return None
        if meta.pop("sha256") != _sha256(meta):
            raise ValueError("it was altered")
        for part in PARTS:
            file = directory / f"{part}.bin"
            if file.stat().st_size != meta["files"][part]["bytes"]:
                raise ValueError("its size is another")
            if file_sha256(file) != meta["files"][part]["sha256"]:
                raise ValueError("it was altered")
    except (OSError, ValueError, LookupError, TypeError, DataError) as error:
        why = getattr(error, "strerror", None) or error
        if isinstance(error, LookupError | TypeError):
            why = "it is incomplete"
        print(f"{file}: is damaged ({why}); the text is tokenized again", file=sys.stderr)
        return None
    return meta


def _sha256(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


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
