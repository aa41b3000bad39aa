"""Tracebacks without the texts of requests.

The message of an exception may quote what the code was given: pydantic's errors hold the whole
input, a KeyError the key. Where the code was is enough to find a mistake; so, while a request is
answered, messages are left out but for kinds that say nothing of their input.
"""

import traceback

from model.errors import CheckpointError

PLAIN = (
    AssertionError,
    AttributeError,
    CheckpointError,
    ImportError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,  # torch's, of shapes and devices
    TypeError,
    ZeroDivisionError,
)
"""Exceptions whose messages name types, shapes, files and names of the program."""
HIDDEN = "(a message that may quote a request; --log-prompts true shows it)"


def without_messages(error: BaseException) -> str:
    """The traceback of `error` and of what led to it."""
    lines: list[str] = []
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)
    for one in reversed(chain):
        if lines:
            lines.append("\nWhich led to:\n\n")
        lines += _of(one)
    return "".join(lines).rstrip("\n")


def _of(error: BaseException) -> list[str]:
    message = f": {error}" if isinstance(error, PLAIN) and str(error) else ""
    if not isinstance(error, PLAIN):
        message = f": {HIDDEN}"
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    lines = ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__)]
    lines.append(f"{name}{message}\n")
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            lines += ["\nIn it:\n\n", *_of(inner)]
    return lines
