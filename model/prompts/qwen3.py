"""Qwen3's ChatML, with a block of thoughts before the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from model.prompts.chatml import (
    END,
    START,
    closing,
    jinja_opening,
    jinja_turn,
    opening,
    turn,
)
from model.prompts.jinja import CONTENT, ROLE, each, put, say, when
from model.prompts.parts import Message, Part, Special, Text
from model.prompts.template import Template
from model.prompts.tools import HermesTools, ToolForm

THINK, THINK_END = "<think>", "</think>"
_RESULT, _RESULT_END = "<tool_response>", "</tool_response>"


@dataclass(frozen=True)
class Qwen3(Template):
    """ChatML in which an answer begins with what the model thinks, between two tokens of their own.

    The thoughts of earlier answers are left out of a conversation, so an earlier answer stands
    there in a form in which the model never gives one. Only an answer after the user's last message
    is therefore said: to learn from each answer of a conversation, render it once for each.

    The model's own tokenizer takes `<think>` in any text for that token; it ends no turn.
    """

    thinking: bool = True
    """Whether the model thinks before it answers. If not, its prompt ends with an empty block."""

    name: ClassVar[str] = "qwen3"
    special: ClassVar[tuple[str, ...]] = (START, END)
    tokens: ClassVar[tuple[str, ...]] = (THINK, THINK_END)
    kinds: ClassVar = {"thinking": (bool,)}

    @property
    def tool_form(self) -> ToolForm:
        return HermesTools()

    def _parts(self, messages: Sequence[Message], answer: bool) -> list[Part]:
        parts: list[Part] = []
        last, last_query = len(messages) - 1, _last_query(messages)
        for index, message in enumerate(messages):
            if message.role != "assistant":
                parts += turn(message)
                continue
            thoughts, content = _split(message.content)
            if index > last_query and (thoughts or index == last):
                parts += opening(message.role)
                learnt = message.learnt
                parts += _block(thoughts.strip("\n"), self.thinking, learnt)
                parts += [Text(content.lstrip("\n"), True, learnt), *closing(True, learnt)]
            else:
                parts += turn(Message(message.role, content))
        if answer:
            parts += opening("assistant")
            if not self.thinking:
                parts += _block("", said=False)
        return parts

    def _jinja(self) -> str:
        """With one variable more, the original's `enable_thinking`."""
        assistant = when(
            "loop.index0 > query.last and (thoughts or loop.last)",
            jinja_turn(ROLE, *_jinja_block(r"thoughts.strip('\n')"), r"content.lstrip('\n')"),
            jinja_turn(ROLE, "content"),
        )
        turns = each(
            "messages",
            when(f"{ROLE} == 'assistant'", _JINJA_SPLIT + assistant, jinja_turn(ROLE, CONTENT)),
        )
        usual = "true" if self.thinking else "false"
        thinking = f"enable_thinking if enable_thinking is defined else {usual}"
        answer = jinja_opening("'assistant'") + when(f"not ({thinking})", say(*_jinja_block("''")))
        return _JINJA_LAST_QUERY + turns + when("add_generation_prompt", answer)


def _block(thoughts: str, said: bool, learnt: bool = True) -> list[Part]:
    return [
        Special(THINK, said, learnt),
        Text(f"\n{thoughts}\n", said, learnt),
        Special(THINK_END, said, learnt),
        Text("\n\n", said, learnt),
    ]


def _split(text: str) -> tuple[str, str]:
    """An answer's thoughts, empty if it has none, and the rest of it."""
    if THINK_END not in text:
        return "", text
    before, after = text.split(THINK_END)[0], text.split(THINK_END)[-1]
    return before.rstrip("\n").split(THINK)[-1].lstrip("\n"), after.lstrip("\n")


def _last_query(messages: Sequence[Message]) -> int:
    """Index of the user's last message that is not the result of a tool; of the last one if there
    is none."""
    for index in reversed(range(len(messages))):
        role, text = messages[index].role, messages[index].content
        if role == "user" and not (text.startswith(_RESULT) and text.endswith(_RESULT_END)):
            return index
    return len(messages) - 1


def _jinja_block(thoughts: str) -> tuple[str, ...]:
    """`_block` as expressions in Jinja, of another."""
    return repr(f"{THINK}\n"), thoughts, repr(f"\n{THINK_END}\n\n")


_JINJA_SPLIT = (
    put("thoughts", "''")
    + put("content", CONTENT)
    + when(
        f"{THINK_END!r} in content",
        put(
            "thoughts",
            rf"content.split({THINK_END!r})[0].rstrip('\n').split({THINK!r})[-1].lstrip('\n')",
        )
        + put("content", rf"content.split({THINK_END!r})[-1].lstrip('\n')"),
    )
)
"""`_split` in Jinja."""
_JINJA_LAST_QUERY = put("query", "namespace(last=messages | length - 1, found=false)") + each(
    "messages[::-1]",
    when(
        f"not query.found and {ROLE} == 'user' and not ({CONTENT}.startswith({_RESULT!r}) "
        f"and {CONTENT}.endswith({_RESULT_END!r}))",
        put("query.found", "true") + put("query.last", "messages | length - loop.index"),
    ),
)
"""`_last_query` in Jinja."""
