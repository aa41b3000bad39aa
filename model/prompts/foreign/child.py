"""Compile one chat template and render by it, in a process of its own.

    python -m model.prompts.foreign.child    # as `model.prompts.foreign.process` starts it

It reads frames from its input and answers each with one. The first has the template, its special
tokens and the limits. A limit that is hit ends the process: of CPU time by a signal, of memory with
the exit status `MEMORY_EXIT`.
"""

import codecs
import importlib
import math
import os
import re
import sys
import time
from typing import Any, BinaryIO

from jinja2 import TemplateSyntaxError, meta

from model.prompts.foreign import said
from model.prompts.foreign.environment import Refused, environment, generation
from model.prompts.foreign.frames import HEADER_BYTES, MEMORY_EXIT, content_of, frame, length_of
from model.subprocesses import limit_cpu, limit_memory, open_no_more_files

_ON_FIRST_USE = ("jinja2.constants", "jinja2.debug", "pprint", "unicodedata")
"""Modules that Jinja imports when it needs them."""
_CODECS = ("ascii", "latin-1", "unicode_escape", "utf-8")
"""Likewise; Jinja reads the escapes in texts by one of them."""
_SHOWN = 200
"""Characters of an error that are told."""


class _Work:
    """One template, compiled, with what it is rendered by."""

    def __init__(self, setup: dict[str, Any]) -> None:
        made = environment()
        self.variables = sorted(meta.find_undeclared_variables(made.parse(setup["text"])))
        self._template = made.from_string(setup["text"])
        self._generation = generation(made)
        self._special = re.compile(setup["special"])
        self._tokens = {k: setup[k] for k in ("bos_token", "eos_token") if setup[k] is not None}
        self._most = setup["limits"]["output"]

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The text of a conversation, and what the assistant says there as spans of it."""

        def render(
            messages: said.Conversation, answer: bool, marks: tuple[str, str] = ("", "")
        ) -> str:
            self._generation.marks = marks
            return self._render(messages, answer, asked["tools"])

        messages, answer, (mark, before, after) = asked["messages"], asked["answer"], asked["marks"]
        text, spans = render(messages, answer), []
        if asked["spans"] and self._generation.used:
            eos = self._tokens.get("eos_token", "")
            spans = said.by_blocks(render, messages, answer, text, (before, after), eos)
        if asked["spans"] and not spans:
            failures = (_Failure,)
            spans = said.by_prompts(render, messages, text, self._special, mark, failures)
        return {"text": text, "spans": spans}

    def _render(self, messages: Any, answer: bool, tools: Any) -> str:
        pieces, size = [], 0
        try:
            for piece in self._template.generate(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=answer,
                **self._tokens,
            ):
                size += len(piece)
                if size > self._most:
                    raise _TooLong(f"the chat template writes more than {self._most} characters")
                pieces.append(piece)
        except (_TooLong, MemoryError):
            raise
        except Exception as error:  # whatever a program can raise
            raise _Failure(_reason(error)) from error
        return "".join(pieces)


class _Failure(Exception):
    """The template has no form for a conversation."""


class _TooLong(Exception):
    """It writes too much."""


def _reason(error: Exception) -> str:
    said = error.message if isinstance(error, TemplateSyntaxError) else str(error)
    message = " ".join(str(said)[: 10 * _SHOWN].split())
    message = message if len(message) <= _SHOWN else message[: _SHOWN - 1] + "…"
    if isinstance(error, Refused):
        return f"the chat template refuses the conversation: {message}"
    if isinstance(error, TemplateSyntaxError):
        return f"the chat template is no valid Jinja: line {error.lineno}: {message}"
    if isinstance(error, RecursionError):
        return "the chat template is nested too deeply"
    return f"the chat template fails: {type(error).__name__}: {message}"


def _handle(work: _Work | None, asked: dict[str, Any]) -> tuple[_Work | None, dict[str, Any]]:
    """The template after a request, and the answer to it."""
    try:
        if work is None:
            work = _Work(asked)
            return work, {"variables": work.variables}
        return work, work.answer(asked)
    except MemoryError:
        raise
    except (_Failure, _TooLong) as error:
        return work, {"error": str(error)}
    except Exception as error:  # it does not compile
        return work, {"error": _reason(error)}


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    work: _Work | None = None
    limits: dict[str, Any] = {}
    while header := requests.read(HEADER_BYTES):
        asked = content_of(requests.read(length_of(header)))
        if not limits:
            limits = asked["limits"]
            limit_memory(limits["memory"])
            # Whoever found a way out of the sandbox would have no files, and no way to connect.
            open_no_more_files()
        limit_cpu(math.ceil(time.process_time()) + limits["cpu"])
        work, answer = _handle(work, asked)
        answers.write(frame(answer))
        answers.flush()


def main() -> int:
    for name in _ON_FIRST_USE:
        importlib.import_module(name)
    for name in _CODECS:
        codecs.lookup(name)
    try:
        _serve(sys.stdin.buffer, sys.stdout.buffer)
    except MemoryError:
        os._exit(MEMORY_EXIT)  # nothing more can be relied on
    except BrokenPipeError:  # whoever asked is gone
        os._exit(0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
