"""The form in which a template writes a call of a tool, found out by rendering one."""

import re
from collections.abc import Sequence
from typing import Protocol

from model.errors import UsageError
from model.prompts.parts import Message, Part, Special, Text, ToolCall
from model.prompts.tools import CallForm, Definition, json_line

_CALL = ToolCall("probe_name", {"probe_key": "probe_value"}, "probe_id")
_RESULT = "probe_result"
_TOOL: Definition = {
    "type": "function",
    "function": {
        "name": _CALL.name,
        "description": "",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}
_FORM = re.compile(f"(.*?){_CALL.name}(.*?){re.escape(json_line(_CALL.arguments))}(.*)", re.DOTALL)


class Render(Protocol):
    """A template that is given calls and results as they are."""

    def __call__(
        self, messages: Sequence[Message], answer: bool, tools: Sequence[Definition]
    ) -> list[Part]: ...


def call_form(render: Render) -> CallForm | None:
    """How the assistant writes a call; None if the template does not write calls and their results,
    or not in a form that can be generated: as text, up to a special token, with the arguments in
    JSON."""
    asked = [Message("user", "Hi")]
    called = [Message("assistant", "", calls=(_CALL,)), Message("user", _RESULT, result_of=_CALL)]
    try:
        prompt = joined(render(asked, True, [_TOOL]))
        parts = render([*asked, *called], True, [_TOOL])
    except UsageError:
        return None
    whole, end = joined(parts), 0
    for part in parts:
        if isinstance(part, Special) and end >= len(prompt):
            break
        end += len(joined([part]))
    match = _FORM.fullmatch(whole[len(prompt) : end])
    if match is None or not whole.startswith(prompt) or _RESULT not in whole[end:]:
        return None
    if not match[1].strip() or any(_CALL.id in piece for piece in match.groups()):
        return None
    return CallForm(*match.groups())


def joined(parts: Sequence[Part]) -> str:
    """The text of rendered parts."""
    return "".join(part.text for part in parts if isinstance(part, Text | Special))
