"""Llama 3's template: each message after a header with its role."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from model.prompts.jinja import CONTENT, ROLE, each, put, say, when
from model.prompts.parts import Message, Part, Special, Text
from model.prompts.template import Template
from model.prompts.tools import Definition, LlamaTools, ToolForm

BEGIN, END = "<|begin_of_text|>", "<|eot_id|>"
HEADER, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"

DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
"""The preamble of Llama 3.1, 3.2 and 3.3.

Llama 3.2's own template puts the day of rendering there if it can. A prompt that changes overnight
would be neither what a model was tuned on nor reproducible, so here it has 3.1's date, too.
"""
_ENVIRONMENT = "Environment: ipython\n"
"""Stands before the preamble where there are tools."""


@dataclass(frozen=True)
class Llama3(Template):
    """Llama 3, whose contents are stripped of white space. Messages may come in any order.

    Llama 3.1 and later, which have the preamble, have words of their own for tools: a call is JSON,
    and its result stands in a turn of `ipython`.
    """

    preamble: str = ""
    """Text before the system message, which is then always there; empty for Llama 3.0."""

    name: ClassVar[str] = "llama3"
    special: ClassVar[tuple[str, ...]] = (BEGIN, HEADER, HEADER_END, END)
    kinds: ClassVar = {"preamble": (str,)}

    @property
    def tool_form(self) -> ToolForm:
        return LlamaTools() if self.preamble else ToolForm()

    def render(
        self,
        messages: Sequence[Message],
        *,
        answer: bool = True,
        tools: Sequence[Definition] | None = None,
    ) -> list[Part]:
        if tools and self.preamble:
            told = replace(self, preamble=_ENVIRONMENT + self.preamble)
            return super(Llama3, told).render(messages, answer=answer, tools=tools)
        return super().render(messages, answer=answer, tools=tools)

    def _parts(self, messages: Sequence[Message], answer: bool) -> list[Part]:
        parts: list[Part] = [Special(BEGIN)]
        if self.preamble:
            system = ""
            if messages[0].role == "system":
                system, messages = messages[0].content.strip(), messages[1:]
            parts += _turn("system", self.preamble + system)
        for message in messages:
            text, said = message.content.strip(), message.role == "assistant"
            role = message.role if message.result_of is None else "ipython"
            parts += _turn(role, text, said, message.learnt)
        if answer:
            parts += _header("assistant")
        return parts

    def _jinja(self) -> str:
        system = put("turns", "messages")
        if self.preamble:
            system = when(
                "messages[0]['role'] == 'system'",
                put("system", "messages[0]['content'] | trim") + put("turns", "messages[1:]"),
                put("system", "''") + put("turns", "messages"),
            )
            system += _jinja_turn("'system'", repr(self.preamble), "system")
        turns = each("turns", _jinja_turn(ROLE, f"({CONTENT} | trim)"))
        answer = when("add_generation_prompt", _jinja_header("'assistant'"))
        return say(repr(BEGIN)) + system + turns + answer


def _header(role: str) -> list[Part]:
    return [Special(HEADER), Text(role), Special(HEADER_END), Text("\n\n")]


def _turn(role: str, text: str, said: bool = False, learnt: bool = True) -> list[Part]:
    return [*_header(role), Text(text, said, learnt), Special(END, said, learnt)]


def _jinja_header(role: str) -> str:
    """`_header` in Jinja, of an expression."""
    return say(repr(HEADER), role, repr(f"{HEADER_END}\n\n"))


def _jinja_turn(role: str, *content: str) -> str:
    """`_turn` in Jinja, of expressions."""
    return _jinja_header(role) + say(*content, repr(END))
