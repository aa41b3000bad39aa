"""Conversations in the forms that data has them, as messages.

OpenAI's and Hugging Face's turns have `role` and `content`, ShareGPT's `from` and `value`; the
content is a string, or a list of parts of the type `text`. A system turn without a text is no turn.
An assistant's turn of `weight` 0, as in OpenAI's fine-tuning files, is context that is not learnt.
What the templates have no place for (tools, images) is left out with its record.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import DataError
from model.prompts import Message
from model.prompts.parts import Role
from training.data.records import LeftOut, Record, checked

CHATS = ("messages", "conversations")
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_TOOLS = ("tool", "function", "ipython", "observation", "function_call", "tool_call")
_CALLS = ("tool_calls", "function_call")


def chat(record: Record) -> list[Message] | None:
    """The record's conversation; None if it has none. ShareGPT's may have the text of the system
    turn in a field of its own, `system`.

    Raises:
        LeftOut, DataError: see `turns`.
    """
    # An empty cell of a table is no chat.
    name = next((n for n in CHATS if record.fields.get(n) not in (None, "")), None)
    if name is None:
        return None
    messages = turns(record.fields[name], record.where)
    if name == "conversations" and record.fields.get("system"):
        messages.insert(0, Message("system", record.string("system")))
    return messages


def turns(value: Any, where: str) -> list[Message]:
    """The messages of a conversation.

    Raises:
        LeftOut: one is of a tool, no text, or empty.
        DataError: one has no content, an unknown role or another weight than 0 and 1; names it by
            its number.
    """
    found = []
    for number, turn in enumerate(value if isinstance(value, list) else [value], start=1):
        if not isinstance(turn, dict):
            raise DataError(f"{where}: message {number} has no content that is a string")
        said = str(turn.get("from") if turn.get("role") is None else turn["role"])
        if said in _TOOLS or any(turn.get(name) for name in _CALLS):
            raise LeftOut(f"message {number} is of a tool, which the template has no place for")
        content = turn.get("value") if turn.get("content") is None else turn["content"]
        if content is None and ("content" in turn or "value" in turn):
            content = ""
        text = checked(_text(content, where, number), where, f"message {number}")
        if said not in _ROLES:
            raise DataError(
                f"{where}: message {number} is of {said!r}; it must be of {', '.join(_ROLES)}"
            )
        role = _ROLES[said]
        if text.strip():
            learnt = _weight(turn.get("weight"), where, number)
            found.append(Message(role, text, learnt=learnt))
        elif role != "system":
            raise LeftOut(f"message {number} is empty")
    return found


def _weight(value: Any, where: str, number: int) -> bool:
    """Whether a turn is to be learnt.

    Raises:
        DataError: it is neither 0 nor 1.
    """
    if value is None or value in (0, 1):
        return bool(value != 0)
    raise DataError(f"{where}: message {number} has the weight {value!r}; it must be 0 or 1")


def _text(content: Any, where: str, number: int) -> str:
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {} for part in content]
        other = next((part for part in parts if not isinstance(part.get("text"), str)), None)
        if other is not None or any(part.get("type") != "text" for part in parts):
            kinds = sorted({str(part.get("type")) for part in parts} - {"text"})
            raise LeftOut(f"message {number} has content of the type {', '.join(kinds) or 'text'}")
        return "".join(part["text"] for part in parts)
    if not isinstance(content, str):
        raise DataError(f"{where}: message {number} has no content that is a string")
    return content


def roles(messages: Sequence[Message]) -> str:
    """Who speaks, for messages."""
    return ", ".join(message.role for message in messages) or "nobody"
