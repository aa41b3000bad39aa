"""Plain text to a memory-mapped file of tokens, and windows over it.

Documents are the parts of a file between lines that hold only `<|endoftext|>`; a file without such
a line is one document. Each document is followed by the end token. Tokens are written to disk once,
two bytes each, and mapped from there: data may be larger than memory, and a window costs nothing
until it is read.
"""

import contextlib
import hashlib
import json
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.atomic import write_file, writing
from model.errors import DataError
from model.tokenizer import END_OF_TEXT, Tokenizer

Tokens = npt.NDArray[np.integer]

SPLIT_RULE = (
    "a document is validation when the SHA-256 of its lower-cased, space-normalised text, read as "
    "a fraction, is below val_fraction; where that leaves a part empty, as with a single document, "
    "the last val_fraction of each document is"
)
"""For cards."""

_PARTS = ("train", "val")

_SEPARATOR = re.compile(rf"^{re.escape(END_OF_TEXT)}[ \t]*$", re.MULTILINE)

_VERSION = 2  # of the token files: raise it when documents are cut or split differently


def read_text(path: Path) -> str:
    """All text of a UTF-8 file, unpacked if its name ends in `.xz`.

    Raises:
        DataError: missing, unreadable, not UTF-8, or without text; names the file.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".xz":
            raw = lzma.decompress(raw)
        text = raw.decode("utf-8")
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text (byte {error.start} is {raw[error.start]:#04x})"
        ) from error
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


def documents(text: str) -> Iterator[str]:
    """The documents of a file, without the lines that separate them and without empty ones; line
    ends are `\\n`, and a byte order mark is dropped."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for document in _SEPARATOR.split(text):
        if document.strip():
            yield document.strip("\n")


def normalise(text: str) -> str:
    """What two copies of the same text have in common: its words, whatever case and spacing."""
    return " ".join(text.lower().split())


def text_hash(text: str) -> str:
    """Identifies a text up to case and spacing; splits are made by it."""
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the normalised text alone: the same text always falls on
    the same side of a split, in whichever file and order it comes."""
    return int(text_hash(text)[:13], 16) / 16**13


@dataclass(frozen=True)
class TokenFiles:
    """Tokenized text, split into a training and a validation part."""

    train: Tokens
    val: Tokens
    sources: tuple[dict[str, object], ...]
    """Name, SHA-256 and number of documents of each file."""


def tokenize_files(
    paths: Sequence[Path], tokenizer: Tokenizer, directory: Path, val_fraction: float
) -> TokenFiles:
    """Tokenize `paths` into `directory`, or map what an earlier call with the same input left.

    A document is in the validation part when the hash of its normalised text says so. Where that
    leaves a part empty, the last `val_fraction` of each document is. Repeated documents are kept
    once.

    Raises:
        DataError: a file cannot be used, or the text is too short to be split.
        PenwrightError: the tokens cannot be written; names the file.
    """
    digests = [file_sha256(path) for path in paths]
    key = hashlib.sha256(
        json.dumps([_VERSION, digests, tokenizer.sha256, val_fraction]).encode()
    ).hexdigest()
    meta_file = directory / "meta.json"
    if not (meta_file.exists() and json.loads(meta_file.read_text())["key"] == key):
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            meta_file.unlink(missing_ok=True)
        meta = _write_tokens(paths, digests, tokenizer, directory, val_fraction)
        write_file(meta_file, json.dumps({"key": key, **meta}).encode())
    meta = json.loads(meta_file.read_text())
    dtype = np.dtype(meta["dtype"])
    return TokenFiles(
        train=np.memmap(directory / "train.bin", dtype, mode="r"),
        val=np.memmap(directory / "val.bin", dtype, mode="r"),
        sources=tuple(meta["sources"]),
    )


def file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _write_tokens(
    paths: Sequence[Path],
    digests: Sequence[str],
    tokenizer: Tokenizer,
    directory: Path,
    val_fraction: float,
    *,
    cut: bool = False,
) -> dict[str, object]:
    """Write both parts and return what `meta.json` holds. With `cut`, each document gives its end
    to the validation part."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    seen: set[str] = set()
    sources = []
    sizes = dict.fromkeys(_PARTS, 0)
    with contextlib.ExitStack() as stack:
        files = {}
        for part in _PARTS:
            path = directory / f"{part}.bin"
            stack.enter_context(writing(path))  # closing writes, too
            files[part] = stack.enter_context(path.open("wb"))

        def write(part: str, texts: list[str]) -> None:
            with writing(directory / f"{part}.bin"):
                for tokens in tokenizer.encode_batch(texts):
                    files[part].write(np.array([*tokens, tokenizer.end_token], dtype).tobytes())
                    sizes[part] += len(tokens) + 1
                files[part].flush()

        for path, digest in zip(paths, digests, strict=True):
            before = len(seen)
            parts: dict[str, list[str]] = {part: [] for part in _PARTS}
            for document in documents(read_text(path)):
                identity = text_hash(document)
                if identity not in seen:
                    seen.add(identity)
                    for part, text in _split(document, val_fraction, cut):
                        parts[part].append(text)
            for part, texts in parts.items():
                for start in range(0, len(texts), 256):
                    write(part, texts[start : start + 256])
            sources.append({"file": path.name, "sha256": digest, "documents": len(seen) - before})
    if all(sizes.values()):
        return {"dtype": dtype.name, "sources": sources}
    if not cut:
        return _write_tokens(paths, digests, tokenizer, directory, val_fraction, cut=True)
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
    """

    def __init__(self, tokens: Tokens, length: int, stride: int) -> None:
        self.tokens = tokens
        self.length = length
        self.stride = stride

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1 - self.length) // self.stride + 1)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and targets, both (len(indices), length) int64."""
        starts = [index * self.stride for index in indices]
        rows = np.stack([self.tokens[s : s + self.length + 1] for s in starts]).astype(np.int64)
        both = torch.from_numpy(rows)
        return both[:, :-1], both[:, 1:]


_POOL = 32  # batches among whose items similar lengths are looked for


class ShuffledOrder:
    """An endless order of `count` items, shuffled anew each epoch.

    The item at a position depends on seed and position alone: where a run stopped, another goes on.

    Args:
        lengths: of the items, where they differ. Neighbours that make up a batch of `batch_size`
            then have similar lengths, so that little padding is computed; which batch comes when
            is as random as before.
    """

    def __init__(
        self, count: int, seed: int, lengths: Sequence[int] | None = None, batch_size: int = 1
    ) -> None:
        self.count = count
        self.seed = seed
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._batch_size = batch_size
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        epoch, index = divmod(position, self.count)
        if epoch != self._epoch:
            self._order = self._shuffled(epoch)
            self._epoch = epoch
        return int(self._order[index])

    def _shuffled(self, epoch: int) -> npt.NDArray[np.int64]:
        draw = np.random.default_rng((self.seed, epoch))
        order = draw.permutation(self.count)
        if self._lengths is None:
            return order
        # Batches go on across the end of an epoch: the first items complete the last one's.
        size = self._batch_size
        lead, rest = np.split(order, [-epoch * self.count % size])
        pools = [rest[i : i + _POOL * size] for i in range(0, len(rest), _POOL * size)]
        ordered = np.concatenate(
            [pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools] or [rest]
        )
        whole = len(ordered) // size * size
        batches = draw.permutation(ordered[:whole].reshape(-1, size))
        return np.concatenate([lead, batches.reshape(-1), ordered[whole:]])
