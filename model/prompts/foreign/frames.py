"""What goes through the pipes to the process that renders, and back: a length, then JSON."""

import json
import struct
from typing import Any

MEMORY_EXIT = 4
"""The exit status of a process that got no more memory; Python itself ends with 1 or 2 when
something is wrong with the program."""
_LENGTH = struct.Struct(">Q")
HEADER_BYTES = _LENGTH.size


def frame(value: Any) -> bytes:
    """A value as it goes through the pipe; a text may have half a surrogate pair."""
    content = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return _LENGTH.pack(len(content)) + content


def length_of(header: bytes) -> int:
    """Bytes of a frame that follow its header."""
    (length,) = _LENGTH.unpack(header)
    assert isinstance(length, int)
    return length


def content_of(content: bytes) -> dict[str, Any]:
    """What `frame` was given, without the header."""
    value = json.loads(content.decode("utf-8", "surrogatepass"))
    assert isinstance(value, dict)
    return value
