"""Log lines as JSON objects, or as text for people. No texts of requests, unless asked for.

A line that is written for a request, wherever in the program, has its `request_id`, and its
`trace_id` if it is traced.

The message of an exception may quote what the code was given: pydantic's errors hold the whole
input, a KeyError the key. Where the code was is enough to find a mistake; so, while a request is
answered, messages are left out but for kinds that say nothing of their input.
"""

import json
import logging
import logging.config
import math
import time
import traceback
from collections.abc import Sequence
from typing import Any

from app.ops.context import REQUEST_CONTEXT
from app.settings import Settings
from model.errors import CheckpointError

logger = logging.getLogger(__name__)

MOST_CHARACTERS = 1000
"""Of a text in a log line."""
_OF_ITSELF = ("app.engine.loading", "app.engine.model_sets", "app.engine.service")
"""Loggers that write of models and settings, and of no request."""

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

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a log call gave as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class RequestIds(logging.Filter):
    """Adds to each record the ids of the request that it is written for."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = REQUEST_CONTEXT.get()
        if context is not None:
            record.request_id = context.request_id
            if context.trace_id is not None:
                record.trace_id = context.trace_id
        return True


class Discreet(logging.Filter):
    """Leaves out of tracebacks what may quote a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not record.exc_text and record.name not in _OF_ITSELF:
            record.exc_text = without_messages(error)
        return True


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
        lines += _without_messages(one)
    return "".join(lines).rstrip("\n")


def _without_messages(error: BaseException) -> list[str]:
    message = f": {error}" if isinstance(error, PLAIN) and str(error) else ""
    if not isinstance(error, PLAIN):
        message = f": {HIDDEN}"
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    lines = ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__)]
    lines.append(f"{name}{message}\n")
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            lines += ["\nIn it:\n\n", *_without_messages(inner)]
    return lines


def log_texts(texts: Sequence[str]) -> None:
    """Log what a request gave to read, if --log-prompts says so."""
    context = REQUEST_CONTEXT.get()
    if context is not None and context.log_prompts:
        logger.info("texts", extra={"texts": [text[:MOST_CHARACTERS] for text in texts]})


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except ValueError:  # JSON has no word for NaN and infinity
            return json.dumps({name: _finite(value) for name, value in line.items()}, default=str)


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class TextFormatter(logging.Formatter):
    """The same for reading: message, then name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = "".join(f" {name}={value!r}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


def configure(settings: Settings) -> None:
    """Set up logging of the whole process, to stderr."""
    formatter = JSONFormatter if settings.log_format == "json" else TextFormatter
    # A line that cannot be written, to a full disk or a closed pipe, is lost. Nothing else is.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"ids": {"()": RequestIds}, "discreet": {"()": Discreet}},
            "formatters": {"line": {"()": formatter}},
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": "line",
                    "filters": ["ids"] if settings.log_prompts else ["ids", "discreet"],
                }
            },
            "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
        }
    )
