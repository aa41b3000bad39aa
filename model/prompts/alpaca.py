"""The instruction template of bases that have none of their own.

It is the Alpaca style of Taori et al. (2023), which the book uses, and ends where the response
begins. A response is trained to end with the end token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from model.errors import UsageError
from model.prompts.jinja import CONTENT, ROLE, each, put, refuse, say, when
from model.prompts.parts import EndOfDocument, Message, Part, Role, Text
from model.prompts.template import Template

ChatRole = Role


def instruction_prompt(instruction: str, input: str = "") -> str:
    """The prompt for `instruction`, with `input` as the text it works on if there is one."""
    prompt = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{instruction}"
    )
    if input:
        prompt += f"\n\n### Input:\n{input}"
    return prompt + "\n\n### Response:\n"


def chat_prompt(messages: Sequence[tuple[ChatRole, str]]) -> str:
    """The prompt for the user's last message, with all that was said before it.

    Args:
        messages: role and text of each; the last one is the user's.

    Raises:
        UsageError: the last one is not the user's.
    """
    return _prompt([Message(role, text) for role, text in messages])


@dataclass(frozen=True)
class Alpaca(Template):
    """One instruction, one input, one response.

    Models are trained on just that, so a conversation is put into it: the instruction is what
    system messages say, then the user's last message, with blank lines between; the input is the
    earlier turns in order, as lines that begin with `User: ` or `Assistant: `, and the last
    message's own input. Nothing is left out. Only the response is what the assistant says.
    """

    name: ClassVar[str] = "alpaca"
    has_turns: ClassVar[bool] = False

    def _parts(self, messages: Sequence[Message], answer: bool) -> list[Part]:
        if answer:
            return [Text(_prompt(messages))]
        *asked, response = messages
        if response.role != "assistant":
            raise UsageError("with the alpaca template, the last message must be the assistant's")
        return [
            Text(_prompt(asked)),
            Text(response.content, True, response.learnt),
            EndOfDocument(True, response.learnt),
        ]

    def _jinja(self) -> str:
        """A conversation that ends with the user's message is a prompt in any case."""
        ends = "messages[-1]['role'] == 'assistant' and not add_generation_prompt"
        speaker = f"('User: ' if {ROLE} == 'user' else 'Assistant: ')"
        line = rf"('\n' if said.turns else '') + {speaker} + {CONTENT}"
        earlier = when(
            f"{ROLE} != 'system'",
            put("said.turns", f"said.turns + {line}"),
            when(CONTENT, put("said.system", rf"said.system + {CONTENT} + '\n\n'")),
        )
        return (
            put("ends", ends)
            + put("asked", "messages[:-1] if ends else messages")
            + when("not asked or asked[-1]['role'] != 'user'", refuse(_NOT_ASKED))
            + put("said", "namespace(system='', turns='')")
            + each("asked[:-1]", earlier)
            + say(repr(_BEFORE), "said.system", "asked[-1]['content']")
            + when("said.turns", say(repr(_BETWEEN), "said.turns"))
            + say(repr(_AFTER))
            + when("ends", say("messages[-1]['content']", "eos_token"))
        )


_NOT_ASKED = "with the alpaca template, the message that is to be answered must be the user's"
_BEFORE, _BETWEEN, _AFTER = re.split("[\0\1]", instruction_prompt("\0", "\1"))


def _prompt(messages: Sequence[Message]) -> str:
    if not messages or messages[-1].role != "user":
        raise UsageError(_NOT_ASKED)
    *before, last = messages
    system = [message.content for message in before if message.role == "system" and message.content]
    inputs = [
        f"{message.role.capitalize()}: {message.content}"
        for message in before
        if message.role != "system"
    ]
    if last.input:
        inputs.append(last.input)
    return instruction_prompt("\n\n".join([*system, last.text]), "\n".join(inputs))
