"""A GGUF file, llama.cpp's format, read with suspicion: its fields, and its tensors one by one.

The reader of the package `gguf` trusts what it reads: 49 bytes that announce an array of 2^60
elements keep it busy for ever. Here every count, length, size and offset is held against what is
left of the file before anything loops over it or takes memory for it. What blocks become is in
`model.convert.gguf_blocks`.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.convert.gguf_blocks import decoder
from model.errors import CheckpointError
from model.json_files import shown

VERSIONS = (2, 3)
MOST_HEADER = 256 * 2**20
"""Bound on the bytes before the tensors; those of models with a large vocabulary are 10 MB."""
MOST_FIELDS = MOST_TENSORS = 2**16
MOST_ELEMENTS = 2**22
"""Bound on the elements of all arrays together; a large vocabulary and its merges are 1.5 million.

Arrays become Python lists, whose elements can take 20 times the memory that they take in the file.
"""
MOST_ALIGNMENT = 2**20
MOST_DIMENSIONS = 4

KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
"""What a tensor may be stored as, by its number in the file: name, numbers and bytes of a block."""
_OTHER_KINDS = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"}
_OTHER_KINDS |= {20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16"}
_OTHER_KINDS |= {26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0"}
_OTHER_KINDS |= {39: "MXFP4", 40: "NVFP4", 41: "Q1_0"}
"""What is refused by its name; a newer number is refused as a number."""

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_FORMATS = {**_NUMBERS, _BOOL: "B"}
"""Types of values by their number in the file, as `struct` writes them."""
_SMALLEST_FIELD = 8 + 4 + 1
_SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8
_SLICE = 2**18
"""Numbers that are dequantized at a time: 1 MB in fp32, which stays in the cache."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is, and what it is stored as."""

    name: str
    shape: tuple[int, ...]
    """In PyTorch's order: the last dimension is the one whose numbers are beside each other."""
    kind: str
    """"Q4_1", for example: a name in `KINDS`."""
    offset: int
    """Of its first byte in the file."""
    nbytes: int
    """Its length in the file."""


@dataclass(frozen=True)
class GGUFFile:
    """What the header of a file says; made by `read_header`."""

    path: Path
    fields: dict[str, Any]
    """Values by key: int, float, bool, str, or a list of one of them."""
    tensors: dict[str, TensorInfo]

    def read(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """One tensor in its shape, in memory of its own.

        Besides the result only slices of it are in memory at a time. Numbers that are not finite
        come as they are.

        Raises:
            CheckpointError: there is no such tensor, the file has changed, or memory is too short;
                names file and tensor.
            UsageError: `gguf` is not installed, which quantized tensors need.
        """
        info = self._info(name)
        numbers = decoder(info.kind, self.path)
        stored = self.blocks(name)
        count, block = len(stored), math.prod(info.shape) // len(stored)
        try:
            result = torch.empty(info.shape, dtype=dtype)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: no memory for {shown(name)} of shape {info.shape}"
            ) from error
        flat, step = result.view(-1), _SLICE // block
        for start in range(0, count, step):
            stop = min(start + step, count)
            # The copy is torch's to keep; the map is read-only and perhaps not aligned.
            flat[start * block : stop * block] = numbers(np.array(stored[start:stop]))
        return result

    def blocks(self, name: str) -> NDArray[np.uint8]:
        """A tensor as it is stored, mapped into memory: (blocks, bytes of one).

        Raises:
            CheckpointError: there is no such tensor, or the file has changed; names file and
                tensor.
        """
        info = self._info(name)
        size = next(size for kind, _, size in KINDS.values() if kind == info.kind)
        return self._bytes(info).reshape(-1, size)

    def same(self, a: str, b: str) -> bool:
        """Whether two tensors are the same bytes; only slices of them are in memory at a time.

        Raises:
            CheckpointError: one of them is not there, or the file has changed; names file and
                tensor.
        """
        first, second = self._info(a), self._info(b)
        if first.nbytes != second.nbytes:
            return False
        one, other = self._bytes(first), self._bytes(second)
        return all(
            np.array_equal(one[start : start + _SLICE], other[start : start + _SLICE])
            for start in range(0, first.nbytes, _SLICE)
        )

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: has no tensor {shown(name)}")
        return self.tensors[name]

    def _bytes(self, info: TensorInfo) -> NDArray[np.uint8]:
        """A tensor as it is stored, mapped into memory, (nbytes,)."""
        try:
            return np.memmap(
                self.path, np.uint8, mode="r", offset=info.offset, shape=(info.nbytes,)
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path}: cannot be read any more: {error}") from error


def read_header(path: Path) -> GGUFFile:
    """The fields of a file, and where its tensors are; no tensor is read.

    Raises:
        CheckpointError: it is no GGUF file of version 2 or 3, is cut short, contradicts itself, or
            has a tensor stored as none of `KINDS`; names the file and what is wrong.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(f"{path}: cannot be read: it is not a file")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise CheckpointError(f"{path}: is not a GGUF file; it does not start with GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Header(path, content).read()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise CheckpointError(f"{str(path)!r}: cannot be read: {error}") from error


class _Header:
    """A place in the header, and what is read from there on."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.content = content
        self.size = len(content)
        self.at = len(b"GGUF")
        self.elements = 0

    def read(self) -> GGUFFile:
        version = self.number("I", "the version")
        if version & 0xFFFF == 0:
            raise self.error("is big-endian; only little-endian files can be read")
        if version not in VERSIONS:
            raise self.error(f"is GGUF version {version}; versions 2 and 3 can be read")
        n_tensors, n_fields = self.number("Q", "the counts"), self.number("Q", "the counts")
        self.check_count(n_fields, "fields", MOST_FIELDS, _SMALLEST_FIELD)
        self.check_count(n_tensors, "tensors", MOST_TENSORS, _SMALLEST_TENSOR)
        fields: dict[str, Any] = {}
        for i in range(n_fields):
            key = self.text(f"the key of field {i}")
            if key in fields:
                raise self.error(f"has the field {shown(key)} twice")
            what = f"field {shown(key)}"
            fields[key] = self.value(self.number("I", what), what)
        alignment = fields.get("general.alignment", 32)
        if (
            type(alignment) is not int
            or alignment % 8
            or not 8 <= alignment <= MOST_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            raise self.error(
                f"general.alignment is {shown(alignment)}; it must be a power of two from 8 to "
                f"{MOST_ALIGNMENT}"
            )
        tensors: dict[str, TensorInfo] = {}
        for i in range(n_tensors):
            tensor = self.tensor(i, alignment)
            if tensor.name in tensors:
                raise self.error(f"has the tensor {shown(tensor.name)} twice")
            tensors[tensor.name] = tensor
        start = -(-self.at // alignment) * alignment
        placed = {
            name: TensorInfo(name, t.shape, t.kind, start + t.offset, t.nbytes)
            for name, t in tensors.items()
        }
        self.check_places(placed)
        return GGUFFile(self.path, fields, placed)

    def tensor(self, number: int, alignment: int) -> TensorInfo:
        """One tensor, whose offset is still that from the end of the header."""
        name = self.text(f"the name of tensor {number}")
        what = f"tensor {shown(name)}"
        n_dims = self.number("I", what)
        if not 1 <= n_dims <= MOST_DIMENSIONS:
            raise self.error(f"{what} has {n_dims} dimensions; 1 to {MOST_DIMENSIONS} are allowed")
        shape = tuple(self.number("Q", what) for _ in range(n_dims))[::-1]
        kind_number, offset = self.number("I", what), self.number("Q", what)
        if kind_number not in KINDS:
            kind = _OTHER_KINDS.get(kind_number, f"type {kind_number}")
            known = ", ".join(name for name, _, _ in KINDS.values())
            raise self.error(f"{what} is stored as {kind}; only {known} can be read")
        kind, block, size = KINDS[kind_number]
        if min(shape) < 1:
            raise self.error(f"{what} has the shape {shape}; dimensions must be at least 1")
        if shape[-1] % block:
            raise self.error(
                f"{what} has rows of {shape[-1]} numbers, stored as {kind}, which needs a multiple "
                f"of {block}"
            )
        nbytes = math.prod(shape) // block * size
        if nbytes > self.size:
            raise self.error(f"{what} of shape {shape} needs {nbytes} bytes; the file is shorter")
        if offset % alignment:
            raise self.error(f"{what} is at {offset}, which is no multiple of {alignment}")
        return TensorInfo(name, shape, kind, offset, nbytes)

    def check_places(self, tensors: dict[str, TensorInfo]) -> None:
        """Each is inside the file, and none in another."""
        before = None
        for tensor in sorted(tensors.values(), key=lambda t: t.offset):
            what, end = f"tensor {shown(tensor.name)}", tensor.offset + tensor.nbytes
            if end > self.size:
                raise self.error(f"is cut short: {what} ends at {end} of {self.size} bytes")
            if before is not None and before.offset + before.nbytes > tensor.offset:
                raise self.error(f"{what} overlaps tensor {shown(before.name)}")
            before = tensor

    def value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.text(what)
        if kind != _ARRAY:
            return self.values(kind, 1, what)[0]
        kind, count = self.number("I", what), self.number("Q", what)
        if kind == _ARRAY:
            raise self.error(f"{what} is an array of arrays; only flat ones can be read")
        smallest = 8 if kind == _STRING else struct.calcsize(self.format(kind, what))
        left = MOST_ELEMENTS - self.elements
        self.check_count(count, f"elements of {what}", left, smallest)
        self.elements += count
        if kind == _STRING:
            return [self.text(what) for _ in range(count)]
        return self.values(kind, count, what)

    def values(self, kind: int, count: int, what: str) -> list[Any]:
        form = f"<{count}{self.format(kind, what)}"
        at = self.take(struct.calcsize(form), what)
        found = list(struct.unpack_from(form, self.content, at))
        if kind == _BOOL:
            if max(found, default=0) > 1:
                raise self.error(f"{what} has the truth value {max(found)}; it must be 0 or 1")
            return [value == 1 for value in found]
        return found

    def format(self, kind: int, what: str) -> str:
        if kind not in _FORMATS:
            raise self.error(f"{what} has values of type {kind}, which is unknown")
        return _FORMATS[kind]

    def text(self, what: str) -> str:
        (length,) = struct.unpack_from("<Q", self.content, self.take(8, what))
        at = self.take(length, what)
        try:
            return self.content[at : at + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8 at byte {at + error.start}") from error

    def number(self, form: str, what: str) -> int:
        form = f"<{form}"
        (value,) = struct.unpack_from(form, self.content, self.take(struct.calcsize(form), what))
        return int(value)

    def check_count(self, count: int, what: str, most: int, smallest: int) -> None:
        """That many of them, of at least `smallest` bytes, can be there, and may be."""
        if count * smallest > self.size - self.at:
            raise self.error(
                f"claims {count} {what}; for so many it is too short by its {self.size} bytes"
            )
        if count > most:
            raise self.error(f"has {count} {what}; at most {most} are allowed")

    def take(self, length: int, what: str) -> int:
        """Where the next `length` bytes start; the place moves behind them."""
        at = self.at
        if length > self.size - at:
            raise self.error(f"is cut short: {what} needs {length} bytes at {at} of {self.size}")
        if at + length > MOST_HEADER:
            raise self.error(f"has a header of over {MOST_HEADER} bytes; that is not allowed")
        self.at += length
        return at

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}")
