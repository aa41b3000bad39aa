"""Foreign JSON: what is read, and that everything else is one clear error."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.files import read_versioned
from model.checkpoint.model_set import load_model_set
from model.errors import CheckpointError
from model.json_files import (
    MOST_LEVELS,
    field,
    list_field,
    parse_json,
    read_json,
    shown,
    write_json,
)


def nested(levels: int) -> bytes:
    """An object with lists within one another; `levels` containers in all."""
    return b'{"a": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"{}", {}),
        (b' {"a": [1, -2.5, null, true, "\xc3\xa9"]}\n', {"a": [1, -2.5, None, True, "é"]}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1000000000000000019884624838656}', {"a": 1000000000000000019884624838656}),
        (b'{"a": {"a": 1}, "b": {"a": 1}}', {"a": {"a": 1}, "b": {"a": 1}}),
        (b'{"a": "\\ud83d\\ude00 \\\\ud83d"}', {"a": "😀 \\ud83d"}),
        (b'{"a": 1e-999}', {"a": 0.0}),
    ],
)
def test_what_is_read(tmp_path: Path, content: bytes, wanted: dict[str, Any]) -> None:
    (tmp_path / "file.json").write_bytes(content)
    assert read_json(tmp_path / "file.json") == wanted


BROKEN = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b'{"a": 1} x', "not valid JSON: Extra data"),
    (b'{"a": "\xff"}', "not valid JSON: byte 7 is not UTF-8"),
    ('{"a": 1}'.encode("utf-16"), "not valid JSON: byte 0 is not UTF-8"),
    (b"[]", "must hold a JSON object"),
    (b"3", "must hold a JSON object"),
    (b"null", "must hold a JSON object"),
    (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice in one object"),
    (b'{"x": [{"a": 1, "a": 1}]}', "the key 'a' is there twice in one object"),
    (b'{"a": NaN}', "holds the number NaN; numbers must be finite"),
    (b'{"a": -Infinity}', "holds the number -Infinity; numbers must be finite"),
    (b'{"a": 1e999}', "holds the number 1e999; numbers must fit 64-bit floating point"),
    (b'{"a": ' + b"9" * 101 + b"}", "holds the number 9{79}…; numbers have at most 100 digits"),
    (b'{"a": ' + b"9" * 100_000 + b"}", "numbers have at most 100 digits"),
    (b'{"a": "\\ud83d"}', "half a surrogate pair"),
    (b'{"a\\uDC00": 1}', "half a surrogate pair"),
    (nested(MOST_LEVELS + 1), "nested too deep; at most 64 levels"),
    (nested(900), "nested too deep"),
    (nested(1_000_000), "nested too deep"),
    (b'{"a":' * 1_000_000, "nested too deep"),
]


@pytest.mark.parametrize(("content", "said"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: .*{said}") as caught:
        read_json(path)
    assert len(str(caught.value)) < len(str(path)) + 250
    assert "\n" not in str(caught.value)


def test_the_deepest_that_is_read() -> None:
    assert parse_json(nested(MOST_LEVELS), "file")["a"] != []


def test_the_caller_may_be_deep_itself() -> None:
    def down(levels: int) -> dict[str, Any]:
        return down(levels - 1) if levels else parse_json(nested(900), "file")

    with pytest.raises(CheckpointError, match="nested too deep"):
        down(300)


def test_a_key_that_is_twice_among_many_is_found_at_once() -> None:
    keys = [f'"{i}": 0' for i in range(200_000)]
    content = "{" + ", ".join([*keys, keys[-1]]) + "}"
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="the key '199999' is there twice"):
        parse_json(content.encode(), "file")
    assert time.perf_counter() - started < 10


def test_the_bound_on_the_size(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b'{"a": 12}')
    assert read_json(path, most_bytes=9) == {"a": 12}
    with pytest.raises(CheckpointError, match=r"file\.json: is larger than the 8 bytes"):
        read_json(path, most_bytes=8)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        ("none.json", "cannot be read: No such file"),
        ("", "cannot be read: it is not a file"),
        ("pipe", "cannot be read: it is not a file"),
        ("pipe/below", "cannot be read: Not a directory"),
        ("a\0b", "cannot be read: embedded null byte"),
        ("n" * 5000, "cannot be read: File name too long"),
    ):
        with pytest.raises(CheckpointError, match=said):
            read_json(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(b"{}")
    (tmp_path / "file.json").chmod(0)
    with pytest.raises(CheckpointError, match=r"file\.json: cannot be read: Permission denied"):
        read_json(tmp_path / "file.json")


class TestFields:
    VALUES: dict[str, Any] = {  # noqa: RUF012
        "int": 3,
        "float": 0.5,
        "bool": True,
        "str": "x",
        "list": ["a", "b"],
        "dict": {},
        "null": None,
        "mixed": ["a", 3],
    }

    def test_values_of_the_wanted_type(self) -> None:
        for kind in (int, float, bool, str, list, dict):
            assert field(self.VALUES, kind.__name__, kind, "f") == self.VALUES[kind.__name__]
        number = field(self.VALUES, "int", float, "f")
        assert number == 3
        assert type(number) is float
        assert type(field(self.VALUES, "int", (int, float), "f")) is int
        assert field(self.VALUES, "null", (str, type(None)), "f") is None
        assert list_field(self.VALUES, "list", str, "f") == ["a", "b"]

    def test_a_default_is_for_what_is_missing(self) -> None:
        assert field(self.VALUES, "none", int, "f", 7) == 7
        assert field(self.VALUES, "none", int, "f", None) is None
        assert list_field(self.VALUES, "none", int, "f", ()) == ()
        with pytest.raises(CheckpointError, match="null is None; it must be a whole number"):
            field(self.VALUES, "null", int, "f", 7)

    @pytest.mark.parametrize(
        ("name", "kinds", "said"),
        [
            ("bool", int, "f: bool is True; it must be a whole number"),
            ("bool", float, "f: bool is True; it must be a number"),
            ("float", int, "f: float is 0.5; it must be a whole number"),
            ("int", bool, "f: int is 3; it must be true or false"),
            ("int", (str, type(None)), "f: int is 3; it must be a text or null"),
            ("int", list, "f: int is 3; it must be a list"),
            ("list", dict, "f: list is ['a', 'b']; it must be an object"),
            ("none", int, "f: has no none"),
        ],
    )
    def test_another_type(self, name: str, kinds: Any, said: str) -> None:
        with pytest.raises(CheckpointError) as caught:
            field(self.VALUES, name, kinds, "f")
        assert str(caught.value) == said

    def test_an_item_of_another_type(self) -> None:
        with pytest.raises(CheckpointError, match=r"f: mixed\[1\] is 3; it must be a text"):
            list_field(self.VALUES, "mixed", str, "f")
        with pytest.raises(CheckpointError, match="f: int is 3; it must be a list"):
            list_field(self.VALUES, "int", str, "f", [])

    @pytest.mark.parametrize(
        "value",
        ["x" * 10**6, 10**90, list(range(10**5)), {"k": {"k": ["x" * 999] * 9}}, b"x" * 999],
    )
    def test_what_is_shown_is_short(self, value: Any) -> None:
        assert len(shown(value)) <= 80


class TestTheirReaders:
    def test_versioned_files(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        for content, said in (
            ({"format_version": True, "rank": 1}, "format version True"),
            ({"format_version": "x" * 9999, "rank": 1}, "format version 'xxx"),
            ({"format_version": 1, "rank": True}, "rank cannot be True"),
            ({"format_version": 1, "rank": "x" * 9999}, "rank cannot be 'xxx"),
            ({"format_version": 1}, "missing fields"),
        ):
            path.write_text(json.dumps(content))
            with pytest.raises(CheckpointError, match=said) as caught:
                read_versioned(path, {1: {"rank": (int,)}})
            assert len(str(caught.value)) < len(str(path)) + 250

    def test_what_is_written_can_be_read(self, tmp_path: Path) -> None:
        path = tmp_path / "card.json"
        write_json(path, {"a": float("nan"), "b": [float("inf"), 1.5], "c": ({"d": -1e308},)})
        assert read_json(path) == {"a": None, "b": [None, 1.5], "c": [{"d": -1e308}]}

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"[]", "must hold a JSON object"),
            (b"\xff", "not UTF-8"),
            (b'{"generate": "base"}', "format_version is None; it must be 1"),
            (b'{"format_version": true, "generate": "base"}', "format_version is True"),
            (b'{"format_version": 1, "generate": "a", "generate": "b"}', "the key 'generate'"),
            (b'{"format_version": 1, "translate": "a"}', "unknown task 'translate'"),
            (b'{"format_version": 1, "generate": 3}', "generate is 3; it must be the name"),
            (b'{"format_version": 1, "generate": "a/b"}', "generate is 'a/b'; it must be the"),
            (b'{"format_version": 1, "generate": ".."}', "generate is '..'; it must be the"),
            (b'{"format_version": 1}', "names no model"),
            (nested(5000), "nested too deep"),
        ],
    )
    def test_model_sets(self, tmp_path: Path, content: bytes, said: str) -> None:
        (tmp_path / "models.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"models\.json: .*{said}"):
            load_model_set(tmp_path)
