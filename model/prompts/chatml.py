"""ChatML: each message between `<|im_start|>` with its role and `<|im_end|>`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from model.prompts.jinja import CONTENT, ROLE, each, say, when
from model.prompts.parts import Message, Part, Special, Text
from model.prompts.template import Template
from model.prompts.tools import HermesTools, ToolForm

START, END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class ChatML(Template):
    """Plain ChatML. Messages may come in any order, as in the templates of the models that use it.

    Tools are told as in Qwen2.5's, also where a model's own has no form for them.
    """

    default_system: str | None = None
    """The system message of a conversation that does not begin with one; None for none."""

    name: ClassVar[str] = "chatml"
    special: ClassVar[tuple[str, ...]] = (START, END)
    kinds: ClassVar = {"default_system": (str, type(None))}

    @property
    def tool_form(self) -> ToolForm:
        return HermesTools()

    @property
    def usual_system(self) -> str | None:
        return self.default_system

    def _parts(self, messages: Sequence[Message], answer: bool) -> list[Part]:
        parts: list[Part] = []
        if self.default_system is not None and messages[0].role != "system":
            parts += turn(Message("system", self.default_system))
        for message in messages:
            parts += turn(message, said=message.role == "assistant")
        if answer:
            parts += opening("assistant")
        return parts

    def _jinja(self) -> str:
        default = ""
        if self.default_system is not None:
            said = jinja_turn("'system'", repr(self.default_system))
            default = when("messages[0]['role'] != 'system'", said)
        turns = each("messages", jinja_turn(ROLE, CONTENT))
        return default + turns + when("add_generation_prompt", jinja_opening("'assistant'"))


def opening(role: str) -> list[Part]:
    """What comes before a message."""
    return [Special(START), Text(f"{role}\n")]


def closing(said: bool, learnt: bool = True) -> list[Part]:
    """What comes after a message; the line break is nobody's."""
    return [Special(END, said, learnt), Text("\n")]


def turn(message: Message, said: bool = False) -> list[Part]:
    """A message with what is around it."""
    content = Text(message.content, said, message.learnt)
    return [*opening(message.role), content, *closing(said, message.learnt)]


def jinja_opening(role: str) -> str:
    """`opening` in Jinja, of an expression."""
    return say(repr(START), role, r"'\n'")


def jinja_turn(role: str, *content: str) -> str:
    """`turn` in Jinja, of expressions."""
    return jinja_opening(role) + say(*content, repr(f"{END}\n"))
