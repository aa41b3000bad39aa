"""JSON files that others wrote, read with suspicion: one object, or one clear error.

`json.loads` alone answers a broken file with five kinds of exception, and takes without a word what
JSON forbids (NaN) or leaves open (a key that is there twice). `read_json` refuses all that, and
`field` and `list_field` refuse a value of the wrong type before it surprises anything else.
"""

import json
import math
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

from model.errors import CheckpointError

MOST_BYTES = 256 * 2**20
"""Bound on a file's size; the largest tokenizers need about 20 MB."""
MOST_LEVELS = 64
"""Bound on objects and lists within one another, the outermost included."""
MOST_DIGITS = 100
"""Bound on the length of a whole number; transformers writes 1e30 for "no limit" in full."""

_SHOWN = 80
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_REQUIRED: Any = object()

T = TypeVar("T")
D = TypeVar("D")


def read_json(
    path: Path, most_bytes: int = MOST_BYTES, *, not_finite: bool = False
) -> dict[str, Any]:
    """The object in a JSON file; a byte order mark before it is skipped.

    Args:
        not_finite: whether NaN and infinities are taken, which Python's `json` writes by default.

    Raises:
        CheckpointError: it cannot be read, is larger than `most_bytes`, or `parse_json` refuses it;
            names the file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(f"{path}: cannot be read: it is not a file")
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise CheckpointError(f"{str(path)!r}: cannot be read: {error}") from error
    if len(content) > most_bytes:
        raise CheckpointError(f"{path}: is larger than the {most_bytes} bytes that are allowed")
    return parse_json(content, path, not_finite=not_finite)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; a number that is not finite becomes null, as JSON has none."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def parse_json(content: bytes, source: Path | str, *, not_finite: bool = False) -> dict[str, Any]:
    """The object that `content` is.

    Args:
        content: UTF-8, with or without a byte order mark.
        source: where it comes from, for errors.

    Raises:
        CheckpointError: it is no valid JSON, no object, nested more than `MOST_LEVELS` deep, or has
            a key twice, a number that is not finite or has more than `MOST_DIGITS` digits, or half
            a surrogate pair; names `source`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            doubled, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise CheckpointError(
                f"{source}: the key {shown(doubled)} is there twice in one object"
            )
        return values

    def whole(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            refuse(digits, f"numbers have at most {MOST_DIGITS} digits")
        return int(digits)

    def finite(digits: str) -> float:
        value = float(digits)
        if abs(value) == float("inf"):
            refuse(digits, "numbers must fit 64-bit floating point")
        return value

    def refuse(text: str, rule: str = "numbers must be finite") -> NoReturn:
        raise CheckpointError(f"{source}: holds the number {_cut(text)}; {rule}")

    deep = f"{source}: nested too deep; at most {MOST_LEVELS} levels are allowed"
    try:
        value = json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=unique,
            parse_int=whole,
            parse_float=finite,
            parse_constant=float if not_finite else refuse,
        )
        if not isinstance(value, dict):
            raise CheckpointError(f"{source}: must hold a JSON object")
        if _levels(value) > MOST_LEVELS:
            raise CheckpointError(deep)
        if _SURROGATE.search(content):  # most files have none, and need no second look
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{source}: not valid JSON: byte {error.start} is not UTF-8"
        ) from error
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"{source}: not valid JSON: half a surrogate pair in a text"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{source}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(deep) from error
    return value


@overload
def field(values: Mapping[str, Any], name: str, kinds: type[T], source: Path | str) -> T: ...
@overload
def field(
    values: Mapping[str, Any], name: str, kinds: type[T], source: Path | str, default: D
) -> T | D: ...
@overload
def field(
    values: Mapping[str, Any],
    name: str,
    kinds: tuple[type, ...],
    source: Path | str,
    default: Any = ...,
) -> Any: ...
def field(
    values: Mapping[str, Any],
    name: str,
    kinds: type | tuple[type, ...],
    source: Path | str,
    default: Any = _REQUIRED,
) -> Any:
    """The value called `name`, of one of the wanted types.

    Args:
        kinds: among bool, int, float, str, list, dict and NoneType. True is no int; an int is
            taken as a float, and becomes one if int is not wanted, too.
        source: the file, for errors.
        default: what to return if the name is missing; a null is not missing.

    Raises:
        CheckpointError: it is of another type, or missing without a default; names source and
            field, and says what it must be.
    """
    if name not in values:
        if default is _REQUIRED:
            raise CheckpointError(f"{source}: has no {name}")
        return default
    return _of_kind(values[name], kinds, name, source)


@overload
def list_field(
    values: Mapping[str, Any], name: str, kind: type[T], source: Path | str
) -> list[T]: ...
@overload
def list_field(
    values: Mapping[str, Any], name: str, kind: type[T], source: Path | str, default: D
) -> list[T] | D: ...
def list_field(
    values: Mapping[str, Any],
    name: str,
    kind: type,
    source: Path | str,
    default: Any = _REQUIRED,
) -> Any:
    """The list called `name`, each item of which is of the wanted type; otherwise as `field`.

    Raises:
        CheckpointError: it is no list, has an item of another type, or is missing without a
            default; names source, field and item.
    """
    items = field(values, name, list, source, default)
    if name not in values:
        return items
    return [_of_kind(item, kind, f"{name}[{i}]", source) for i, item in enumerate(items)]


def shown(value: Any) -> str:
    """A value as an error message shows it: its repr, cut to about 80 characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = _SHOWN
    return _cut(short.repr(value))


def _of_kind(value: Any, kinds: type | tuple[type, ...], name: str, source: Path | str) -> Any:
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    if type(value) in wanted:
        return value
    if float in wanted and type(value) is int:
        return float(value)
    raise CheckpointError(
        f"{source}: {name} is {shown(value)}; it must be "
        f"{' or '.join(_KINDS.get(kind, kind.__name__) for kind in wanted)}"
    )


def _levels(value: Any) -> int:
    """How many containers are within one another, counted level by level without recursion."""
    level, count = [value], 0
    while level:
        count += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return count


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
