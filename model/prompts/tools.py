"""Tools: how a model is told of functions, and how their calls and results are written and read.

A tool is a JSON schema as `transformers` and OpenAI's clients have it, here `Definition`:

    {"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}

A template that has words of its own for tools uses them: of those that are built in, ChatML, Qwen3
and Llama 3.1 have some here, and one in Jinja writes what it can. Without them it is plain text
(`ToolForm`): the tools follow the first system message, each as a line of JSON; a call is what the
assistant says, as `{"name": "find", "arguments": {…}}`; and a result is what the user says, below
`Result of find:`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

from model.errors import UsageError
from model.prompts.parts import Message, ToolCall

Definition = Mapping[str, Any]
"""A tool, as above."""


@dataclass(frozen=True)
class CallForm:
    """How a call is written: `before`, the name, `between`, the arguments as JSON, `after`."""

    before: str = '{"name": "'
    between: str = '", "arguments": '
    after: str = "}"

    def written(self, call: ToolCall) -> str:
        return f"{self.before}{call.name}{self.between}{json_line(call.arguments)}{self.after}"

    @property
    def mark(self) -> str:
        """What begins a call and nothing else."""
        return self.before.partition("\n")[0] or self.before

    @property
    def follows_text(self) -> bool:
        """Whether a call may come after text. Braces can be anybody's, so that a call in JSON alone
        has to be all that there is."""
        return self.mark[0] not in "{["


class ToolForm:
    """How tools are told where a template has no words of its own for them."""

    call: ClassVar[CallForm] = CallForm()
    between_results: ClassVar[str] = "\n\n"

    def told(
        self, messages: Sequence[Message], tools: Sequence[Definition], usual: str | None = None
    ) -> list[Message]:
        """The conversation with what a model must know of `tools`: at the end of the first system
        message, which is there then.

        Args:
            usual: the system message of conversations that do not begin with one.
        """
        first, rest = messages[0], messages[1:]
        if first.role != "system":
            first, rest = Message("system", usual or ""), messages
            told = "\n\n".join(filter(None, [usual, self._described(tools)]))
        else:
            told = f"{first.content}\n\n{self._described(tools)}"
        return [replace(first, text=told, input=""), *rest]

    def written(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with calls and results as text: results that follow each other are one
        message."""
        found: list[Message] = []
        for is_result, group in groupby(messages, lambda message: message.result_of is not None):
            if is_result:
                results = list(group)
                text = self.between_results.join(map(self._result, results))
                found.append(replace(results[0], text=text, input="", result_of=None))
            else:
                found += map(self._with_calls, group)
        return found

    def _described(self, tools: Sequence[Definition]) -> str:
        return (
            "You can call these tools:\n\n"
            + "\n".join(map(json_line, tools))
            + "\n\nTo call one, answer with nothing but a line of JSON of this form:\n"
            + f"{self.call.before}<name>{self.call.between}<arguments>{self.call.after}"
        )

    def _result(self, message: Message) -> str:
        assert message.result_of is not None
        return f"Result of {message.result_of.name}:\n{message.content}"

    def _with_calls(self, message: Message) -> Message:
        if not message.calls:
            return message
        lines = [message.content] * bool(message.content)
        lines += map(self.call.written, message.calls)
        return replace(message, text="\n".join(lines), input="", calls=())


class HermesTools(ToolForm):
    """As in the templates of Hermes 2 Pro, Qwen2.5 and Qwen3, and of others in ChatML."""

    call = CallForm('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>")
    between_results = "\n"

    def _described(self, tools: Sequence[Definition]) -> str:
        return (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
            + "\n".join(map(json_line, tools))
            + "\n</tools>\n\nFor each function call, return a json object with function name and "
            "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )

    def _result(self, message: Message) -> str:
        return f"<tool_response>\n{message.content}\n</tool_response>"


class LlamaTools(ToolForm):
    """As in the template of Llama 3.1: the tools stand before what the user says first, and a
    result keeps a turn of its own."""

    call = CallForm('{"name": "', '", "parameters": ')

    def told(
        self, messages: Sequence[Message], tools: Sequence[Definition], usual: str | None = None
    ) -> list[Message]:
        at = next((i for i, m in enumerate(messages) if m.role == "user"), None)
        if at is None:
            raise UsageError("the llama3 template tells of tools in what the user says first")
        asked = messages[at]
        told = replace(asked, text=self._described(tools) + asked.content.strip(), input="")
        return [*messages[:at], told, *messages[at + 1 :]]

    def written(self, messages: Sequence[Message]) -> list[Message]:
        found = []
        for index, message in enumerate(messages):
            if len(message.calls) > 1:
                raise UsageError(
                    f"message {index} has {len(message.calls)} calls; the llama3 template has a "
                    "form for one"
                )
            if message.result_of is not None:
                message = replace(message, text=json_line(message.content), input="")
            found.append(self._with_calls(message))
        return found

    def _described(self, tools: Sequence[Definition]) -> str:
        return (
            "Given the following functions, please respond with a JSON for a function call with "
            "its proper arguments that best answers the given prompt.\n\n"
            'Respond in the format {"name": function name, "parameters": dictionary of argument '
            "name and its value}.Do not use variables.\n\n"
            + "".join(json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n" for tool in tools)
        )


def json_line(value: Any) -> str:
    """JSON as `transformers` gives it to templates."""
    return json.dumps(value, ensure_ascii=False)


class Said(NamedTuple):
    """What a piece of generated text brought."""

    text: str = ""
    """What is no call."""
    name: str | None = None
    """Of the call that begins here."""
    arguments: str = ""
    """The next piece of its arguments."""


class CallReader:
    """Reads a text that is generated piece by piece: what is said, and the call behind it.

    The text is of a constraint that has calls of this `form` only, and one at most.

    Args:
        only: whether the text is a call and nothing else.
    """

    def __init__(self, form: CallForm, *, only: bool) -> None:
        self._form, self._only = form, only
        self._held = ""
        """Text that is not read yet."""
        self._begun = False
        """Whether something was said, or a call has begun."""
        self._called = False
        self._name: str | None = None
        self._depth = 0
        """Of the brackets of the arguments that are open."""
        self._quoted = self._escaped = False
        self.complete = False
        """Whether the arguments are whole."""

    def push(self, piece: str, *, last: bool = False) -> Said:
        """The next piece of the text, or its `last`."""
        self._held += piece
        text = "" if self._called else self._text(last)
        name = None
        if self._called and self._name is None:
            name = self._read_name()
        arguments = self._arguments() if self._name is not None else ""
        return Said(text, name, arguments)

    def _text(self, last: bool) -> str:
        """What is said and certainly no part of a call's beginning."""
        mark, held, follows_text = self._form.mark, self._held, self._form.follows_text
        possible = follows_text or not self._begun
        at = held.find(mark) if possible else -1
        if at == 0 or (at > 0 and follows_text):
            self._called, self._held = True, held[at + len(mark) :]
            return held[:at]
        waits = _common(held, mark) if possible and not last else 0
        if waits < len(held) and not follows_text:
            waits = 0
        text, self._held = held[: len(held) - waits], held[len(held) - waits :]
        self._begun = self._begun or bool(text)
        return "" if self._only else text

    def _read_name(self) -> str | None:
        start = len(self._form.before) - len(self._form.mark)
        end = self._held.find(self._form.between, start)
        if end < 0:
            return None
        self._name, self._held = self._held[start:end], self._held[end + len(self._form.between) :]
        return self._name

    def _arguments(self) -> str:
        """The next of a JSON object, whose end is found by its brackets."""
        held, self._held = self._held, ""
        if self.complete:
            return ""
        for at, character in enumerate(held):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self.complete = True
                    return held[: at + 1]
        return held


def _common(text: str, mark: str) -> int:
    """The length of the longest end of `text` that a `mark` may begin with."""
    lengths = range(min(len(text), len(mark) - 1), 0, -1)
    return next((n for n in lengths if mark.startswith(text[len(text) - n :])), 0)
