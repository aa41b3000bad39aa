"""Jinja as `transformers` gives it to chat templates (`apply_chat_template`).

A template is somebody else's program. It runs in Jinja's sandbox, and all of this in a process of
its own (`model.prompts.foreign.child`), as the sandbox bounds neither time nor memory.
"""

import datetime
import json
from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TODAY = datetime.datetime(2024, 7, 26)
"""The date of every prompt: that of Llama 3.1's own template (see `model.prompts.llama3.DATES`).

`transformers` gives the day of rendering. A prompt that changes overnight would be neither what a
model was tuned on nor reproducible.
"""


class Refused(jinja2.TemplateError):
    """What a template itself raises."""


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012  (Jinja declares it so)

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.used = False
        """Whether the template has such a block."""
        self.marks = ("", "")
        """Written before and after each block."""

    def parse(self, parser: Parser) -> nodes.Node:
        self.used = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        before, after = self.marks
        return f"{before}{caller()}{after}"


def environment() -> ImmutableSandboxedEnvironment:
    """A new one: what templates may use beside their variables."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = TODAY.strftime
    return made


def generation(of: jinja2.Environment) -> Generation:
    """The extension in an environment."""
    found = of.extensions[Generation.identifier]
    assert isinstance(found, Generation)
    return found


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes what is special in HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
