"""GGUF files: what is read is what the package `gguf` reads, and every broken file is refused."""

import math
import os
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from model.convert import gguf_file
from model.convert.gguf_file import KINDS, GGUFFile, TensorInfo, read_header
from model.errors import CheckpointError, UsageError

TYPES = gguf.GGMLQuantizationType


def write(path: Path, fill: Callable[[gguf.GGUFWriter], object]) -> Path:
    writer = gguf.GGUFWriter(path, "test")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fill_fields(writer: gguf.GGUFWriter) -> None:
    """A field of each type, and arrays of each."""
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -32768)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 1e-5)
    writer.add_float64("f64", math.pi)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", "Füller 🖋")
    writer.add_string("long", "x" * 70_000)
    writer.add_array("texts", ["a", "ä", "", "🖋"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("truths", [True, False, True])
    writer.add_array("few", [7])


def fill_small(writer: gguf.GGUFWriter) -> None:
    writer.add_string("text", "ab")
    writer.add_array("texts", ["a", "bc"])
    writer.add_array("truths", [True, False])
    writer.add_float32("number", 0.5)
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(4, dtype=np.float16))
    stored = gguf.quants.quantize(np.ones((2, 32), np.float32), TYPES.Q8_0)
    writer.add_tensor("three", stored, raw_dtype=TYPES.Q8_0)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.gguf", fill_small)


def same(mine: Any, theirs: Any) -> bool:
    return type(mine) is type(theirs) and repr(mine) == repr(theirs)


def compare(path: Path) -> tuple[GGUFFile, gguf.GGUFReader]:
    """Both ways to read the header, after all that they say was found the same."""
    mine, theirs = read_header(path), gguf.GGUFReader(path)
    fields = {k: v.contents() for k, v in theirs.fields.items() if not k.startswith("GGUF.")}
    assert mine.fields.keys() == fields.keys()
    for name, value in fields.items():
        assert same(mine.fields[name], value), name
    assert mine.tensors == {
        t.name: TensorInfo(
            t.name,
            tuple(t.shape.tolist()[::-1]),
            t.tensor_type.name,
            int(t.data_offset),
            int(t.n_bytes),
        )
        for t in theirs.tensors
    }
    return mine, theirs


class TestReading:
    def test_fields_of_all_types(self, tmp_path: Path) -> None:
        mine, _ = compare(write(tmp_path / "file.gguf", fill_fields))
        assert mine.fields["yes"] is True
        assert mine.fields["truths"] == [True, False, True]
        assert mine.fields["texts"] == ["a", "ä", "", "🖋"]
        assert mine.fields["u64"] == 2**64 - 1
        assert mine.tensors == {}

    def test_an_empty_array(self, tmp_path: Path) -> None:
        (tmp_path / "file.gguf").write_bytes(header(fields=field("a", 9, array(8, 0))))
        assert read_header(tmp_path / "file.gguf").fields == {"a": []}

    @pytest.mark.parametrize("alignment", [8, 32, 4096])
    def test_alignments(self, tmp_path: Path, alignment: int) -> None:
        def fill(writer: gguf.GGUFWriter) -> None:
            writer.add_custom_alignment(alignment)
            fill_small(writer)

        mine, theirs = compare(write(tmp_path / "file.gguf", fill))
        for tensor in theirs.tensors:
            wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(mine.read(tensor.name).numpy(), wanted.astype(np.float32))

    def test_version_2(self, small: Path) -> None:
        content = bytearray(small.read_bytes())
        content[4] = 2
        small.write_bytes(content)
        compare(small)

    @pytest.mark.parametrize("shape", [(512,), (3, 256), (2, 3, 512), (2, 1, 3, 256)])
    @pytest.mark.parametrize("number", sorted(KINDS))
    def test_each_kind(
        self, tmp_path: Path, number: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In slices of one and of three blocks, and whole."""
        name, block, size = KINDS[number]
        nbytes = math.prod(shape) // block * size
        stored = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
        rows = stored.reshape(*shape[:-1], -1)
        path = write(
            tmp_path / "file.gguf", lambda w: w.add_tensor("t", rows, raw_dtype=TYPES[name])
        )
        mine, theirs = compare(path)
        with np.errstate(all="ignore"):
            wanted = gguf.quants.dequantize(theirs.tensors[0].data, TYPES[name])
        for numbers in (1, block, 3 * block, 2**20):
            monkeypatch.setattr(gguf_file, "_SLICE", max(numbers, block))
            found = mine.read("t")
            assert found.shape == shape
            assert found.dtype is torch.float32
            assert found.is_contiguous()
            assert np.array_equal(found.numpy(), wanted.reshape(shape), equal_nan=True)
        half = mine.read("t", torch.bfloat16)
        assert half.dtype is torch.bfloat16
        assert torch.equal(half.nan_to_num(), found.to(torch.bfloat16).nan_to_num())

    def test_the_same_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Compared to the last one, in slices and whole; shapes do not count."""

        def fill(writer: gguf.GGUFWriter) -> None:
            numbers = np.arange(12, dtype=np.float32)
            writer.add_tensor("one", numbers)
            writer.add_tensor("other", numbers.reshape(3, 4))
            writer.add_tensor("last", np.append(numbers[:-1], np.float32(-1)))
            writer.add_tensor("shorter", numbers[:-1].copy())

        mine = read_header(write(tmp_path / "file.gguf", fill))
        for size in (1, 5, 48, 2**20):
            monkeypatch.setattr(gguf_file, "_SLICE", size)
            assert mine.same("one", "other")
            assert not mine.same("one", "last")
            assert not mine.same("one", "shorter")
        with pytest.raises(CheckpointError, match="has no tensor 'none'"):
            mine.same("one", "none")

    def test_what_is_read_is_memory_of_its_own(self, small: Path) -> None:
        mine = read_header(small)
        before = small.read_bytes()
        one = mine.read("one")
        one.add_(1)
        assert small.read_bytes() == before
        small.write_bytes(bytes(len(before)))
        assert torch.equal(one, torch.arange(1.0, 7.0).reshape(2, 3))

    def test_a_tensor_that_is_not_there(self, small: Path) -> None:
        with pytest.raises(CheckpointError, match=rf"^{small}: has no tensor 'four'"):
            read_header(small).read("four")

    def test_a_file_that_changed(self, small: Path) -> None:
        mine = read_header(small)
        small.write_bytes(small.read_bytes()[:100])
        with pytest.raises(CheckpointError, match=rf"^{small}: cannot be read any more"):
            mine.read("three")
        small.unlink()
        with pytest.raises(CheckpointError, match=rf"^{small}: cannot be read any more"):
            mine.read("three")

    def test_without_the_package(self, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gguf", None)
        mine = read_header(small)
        assert mine.read("two").tolist() == [0, 1, 2, 3]
        with pytest.raises(UsageError, match="Q8_0, which need the package gguf"):
            mine.read("three")

    def test_the_table_of_kinds_is_theirs(self) -> None:
        for kind in TYPES:
            if kind.value in KINDS:
                assert KINDS[kind.value] == (kind.name, *gguf.GGML_QUANT_SIZES[kind])
            else:
                assert gguf_file._OTHER_KINDS.get(kind.value, kind.name) == kind.name
        assert not KINDS.keys() & gguf_file._OTHER_KINDS.keys()

    def test_a_large_vocabulary_is_read_at_once(self, tmp_path: Path) -> None:
        words = [f"word{i}" for i in range(150_000)]

        def fill(writer: gguf.GGUFWriter) -> None:
            writer.add_array("tokens", words)
            writer.add_array("kinds", [1] * len(words))

        path = write(tmp_path / "file.gguf", fill)
        started = time.perf_counter()
        fields = read_header(path).fields
        assert time.perf_counter() - started < 5  # 0.15 s when nothing else runs
        assert fields["tokens"] == words
        assert fields["kinds"] == [1] * len(words)

    def test_a_real_model(self, smollm2_file: Path) -> None:
        mine, theirs = compare(smollm2_file)
        assert (len(mine.fields), len(mine.tensors)) == (33, 272)
        for tensor in [*theirs.tensors[:12], theirs.tensors[-1]]:
            wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(mine.read(tensor.name).numpy(), wanted)


def text(value: str | bytes, length: int | None = None) -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(content) if length is None else length) + content


def field(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


def tensor(
    name: str | bytes = "t",
    dims: tuple[int, ...] = (4,),
    kind: int = 0,
    offset: int = 0,
    n_dims: int | None = None,
) -> bytes:
    """A tensor in the file's own order of dimensions."""
    return (
        text(name)
        + struct.pack("<I", len(dims) if n_dims is None else n_dims)
        + struct.pack(f"<{len(dims)}Q", *dims)
        + struct.pack("<IQ", kind, offset)
    )


def header(
    *tensors: bytes,
    fields: bytes = b"",
    n_fields: int | None = None,
    n_tensors: int | None = None,
    start: bytes = b"GGUF\x03\0\0\0",
) -> bytes:
    counts = struct.pack(
        "<QQ",
        len(tensors) if n_tensors is None else n_tensors,
        (1 if fields else 0) if n_fields is None else n_fields,
    )
    return start + counts + fields + b"".join(tensors)


def whole(*tensors: bytes, data: int = 64, **options: Any) -> bytes:
    """A header, padded to 32 bytes, and so many bytes of tensors."""
    content = header(*tensors, **options)
    return content + bytes(-len(content) % 32 + data)


def alignment(value: int, kind: int = 4, form: str = "<I") -> bytes:
    fields = field("general.alignment", kind, struct.pack(form, value))
    return whole(tensor(), fields=fields, data=2**12)


HOSTILE = {
    "nothing": (b"", "does not start with GGUF"),
    "another magic": (b"GGML" + bytes(60), "does not start with GGUF"),
    "magic alone": (b"GGUF", "is cut short: the version"),
    "version 1": (header(start=b"GGUF\x01\0\0\0"), "is GGUF version 1; versions 2 and 3"),
    "version 4": (header(start=b"GGUF\x04\0\0\0"), "is GGUF version 4; versions 2 and 3"),
    "big-endian": (header(start=b"GGUF\0\0\0\x03"), "is big-endian"),
    "2^60 numbers": (
        header(fields=field("a", 9, array(4, 2**60))),
        "claims 1152921504606846976 elements of field 'a'",
    ),
    "2^64 - 1 texts": (header(fields=field("a", 9, array(8, 2**64 - 1))), "elements of field 'a'"),
    "2^60 in an array": (header(fields=field("a", 9, array(9, 2**60))), "an array of arrays"),
    "nested arrays": (
        header(fields=field("a", 9, array(9, 1, array(9, 1, array(4, 1, bytes(4)))))),
        "field 'a' is an array of arrays",
    ),
    "too many elements": (
        header(fields=field("a", 9, array(0, 2**22 + 1, bytes(2**22 + 1)))),
        "has 4194305 elements of field 'a'; at most 4194304",
    ),
    "too many elements in two": (
        header(
            fields=field("a", 9, array(0, 2**22, bytes(2**22))) + field("b", 9, array(0, 1, b"\0")),
            n_fields=2,
        ),
        "has 1 elements of field 'b'; at most 0",
    ),
    "2^63 tensors": (header(n_tensors=2**63), "claims 9223372036854775808 tensors"),
    "2^64 - 1 fields": (header(n_fields=2**64 - 1), "claims 18446744073709551615 fields"),
    "too many fields": (header(n_fields=2**16 + 1) + bytes(2**20), "has 65537 fields; at most"),
    "too many tensors": (header(n_tensors=2**16 + 1) + bytes(2**22), "has 65537 tensors; at most"),
    "a long key": (header(fields=text(b"abc", 2**62) + bytes(9)), "the key of field 0 needs"),
    "a long text": (header(fields=field("a", 8, text("b", 99))), "cut short: field 'a' needs 99"),
    "a text in an array": (
        header(fields=field("a", 9, array(8, 2, text("b") + text("c", 2**64 - 1)))),
        "cut short: field 'a' needs 18446744073709551615 bytes",
    ),
    "a key that is no text": (header(fields=field(b"\xff", 4, bytes(4))), "the key of field 0 is"),
    "a text that is none": (header(fields=field("a", 8, text(b"b\xff"))), "field 'a' is not UTF-8"),
    "a name that is no text": (whole(tensor(b"\xed\xa0\x80")), "the name of tensor 0 is not UTF-8"),
    "an unknown type": (header(fields=field("a", 13, bytes(8))), "'a' has values of type 13"),
    "an unknown type in an array": (
        header(fields=field("a", 9, array(77, 0))),
        "'a' has values of type 77, which is unknown",
    ),
    "truth": (header(fields=field("a", 7, b"\x02")), "'a' has the truth value 2; it must be 0 or"),
    "truths": (header(fields=field("a", 9, array(7, 2, b"\x01\xff"))), "the truth value 255"),
    "a key twice": (
        header(fields=field("a", 0, b"\1") * 2, n_fields=2),
        "has the field 'a' twice",
    ),
    "a tensor twice": (whole(tensor(), tensor(offset=32)), "has the tensor 't' twice"),
    "overlapping": (
        whole(tensor("a", (9,)), tensor("b", offset=32), data=96),
        "tensor 'b' overlaps tensor 'a'",
    ),
    "in one place": (whole(tensor("a"), tensor("b")), "tensor 'b' overlaps tensor 'a'"),
    "no dimension": (whole(tensor(dims=())), "tensor 't' has 0 dimensions; 1 to 4"),
    "five dimensions": (whole(tensor(dims=(1,) * 5)), "tensor 't' has 5 dimensions; 1 to 4"),
    "2^32 - 1 dimensions": (whole(tensor(n_dims=2**32 - 1)), "tensor 't' has 4294967295 dim"),
    "a dimension of 0": (whole(tensor(dims=(4, 0))), r"has the shape \(0, 4\); dimensions must"),
    "2^256 numbers": (whole(tensor(dims=(2**64 - 1,) * 4)), "needs .* bytes; the file is shorter"),
    "0 numbers in 64 bits": (whole(tensor(dims=(2**32,) * 2)), "needs 73786976294838206464 bytes"),
    "half a block": (whole(tensor(dims=(48,), kind=8)), "rows of 48 numbers, stored as Q8_0, wh"),
    "blocks over rows": (whole(tensor(dims=(16, 2), kind=2)), "rows of 16 numbers, stored as Q4_0"),
    "IQ2_XXS": (whole(tensor(dims=(256,), kind=16)), "tensor 't' is stored as IQ2_XXS; only F32,"),
    "I32": (whole(tensor(kind=26)), "tensor 't' is stored as I32; only F32,"),
    "a new kind": (whole(tensor(kind=999)), "tensor 't' is stored as type 999; only F32,"),
    "not aligned": (whole(tensor(offset=4)), "tensor 't' is at 4, which is no multiple of 32"),
    "behind the end": (whole(tensor(offset=64)), "cut short: tensor 't' ends at 144 of 128"),
    "far behind": (whole(tensor(offset=2**64 - 32)), "cut short: tensor 't' ends at 184467440"),
    "over the end": (whole(tensor(dims=(17,))), "cut short: tensor 't' ends at 132 of 128"),
    "alignment 0": (alignment(0), "general.alignment is 0; it must be a power of two from 8 to"),
    "alignment 3": (alignment(3), "general.alignment is 3; it must be a power of two"),
    "alignment 4": (alignment(4), "general.alignment is 4; it must be a power of two"),
    "alignment 24": (alignment(24), "general.alignment is 24; it must be a power of two"),
    "alignment 2^40": (alignment(2**40, 10, "<Q"), "general.alignment is 1099511627776; it must"),
    "alignment -8": (alignment(-8, 5, "<i"), "general.alignment is -8; it must"),
    "alignment 32.0": (alignment(32, 6, "<f"), r"general.alignment is 32\.0; it must"),
    "alignment true": (alignment(1, 7, "<B"), "general.alignment is True; it must"),
    "alignment of words": (
        whole(tensor(), fields=field("general.alignment", 8, text("x" * 999))),
        "general.alignment is 'xxx.*x'; it must",
    ),
    "a name of 100,000": (whole(tensor("x" * 10**5, kind=99)), "'xxx.*x' is stored as type 99"),
    "lines in a name": (whole(tensor("a\nb", kind=99)), r"'a\\nb' is stored as type 99"),
}


class TestHostile:
    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("name", HOSTILE)
    def test_files_made_by_hand(self, tmp_path: Path, name: str) -> None:
        content, said = HOSTILE[name]
        path = tmp_path / "file.gguf"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"^{path}: .*{said}") as caught:
            read_header(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < len(str(path)) + 350

    def test_the_files_made_by_hand_are_right_otherwise(self, tmp_path: Path) -> None:
        path = tmp_path / "file.gguf"
        path.write_bytes(whole(tensor("a", (2, 4)), tensor("b", (8,), offset=32)))
        found = read_header(path).tensors
        assert [(t.shape, t.offset, t.nbytes) for t in found.values()] == [
            ((4, 2), 128, 32),
            ((8,), 160, 32),
        ]

    def test_claims_take_no_memory(self, tmp_path: Path) -> None:
        path = tmp_path / "file.gguf"
        small = [content for content, _ in HOSTILE.values() if len(content) < 2**12]
        tracemalloc.start()
        for content in small:
            path.write_bytes(content)
            with pytest.raises(CheckpointError):
                read_header(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**21

    def test_a_long_header(self, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gguf_file, "MOST_HEADER", 100)
        with pytest.raises(CheckpointError, match="has a header of over 100 bytes"):
            read_header(small)

    def test_too_little_memory(self, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **options: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        mine = read_header(small)
        monkeypatch.setattr(torch, "empty", refuse)
        with pytest.raises(CheckpointError, match=r"no memory for 'one' of shape \(2, 3\)"):
            mine.read("one")

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, said in (
            ("none.gguf", "cannot be read: No such file"),
            ("", "cannot be read: it is not a file"),
            ("pipe", "cannot be read: it is not a file"),
            ("a\0b", "cannot be read: embedded null byte"),
        ):
            with pytest.raises(CheckpointError, match=said):
                read_header(tmp_path / name)

    def test_cut_at_every_byte(self, small: Path) -> None:
        content = small.read_bytes()
        mine = read_header(small)
        end = max(t.offset + t.nbytes for t in mine.tensors.values())
        assert end < len(content)  # the rest is padding
        for length in range(end):
            small.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match=rf"^{small}: "):
                read_header(small)
        small.write_bytes(content[:end])
        assert read_header(small) == mine

    def test_bytes_that_flipped(self, small: Path) -> None:
        """Each is refused, or read without trouble."""
        content = small.read_bytes()
        end_of_header = min(t.offset for t in read_header(small).tensors.values())
        draws = random.Random(0)
        refused = 0
        for _ in range(4000):
            changed = bytearray(content)
            for _ in range(draws.choice((1, 1, 1, 2, 8))):
                changed[draws.randrange(end_of_header)] = draws.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, draws.randrange(256))
                )
            small.write_bytes(changed)
            try:
                found = read_header(small)
                tensors = [found.read(name) for name in found.tensors]
            except CheckpointError:
                refused += 1
            else:
                assert all(t.numel() <= 8 * len(content) for t in tensors)
        assert 1000 < refused < 4000
