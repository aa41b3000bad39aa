"""Tools: functions that a chat may call, as OpenAI's clients send and read them.

A call is generated text in the form that the model's template has for one (`model.prompts.tools`),
so that its name is one of `tools` and its arguments are always of that tool's schema. `tool_choice`
says whether there is to be one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.api.fields import Fields, Str
from app.api.generation import Form
from app.api.openai.parameters import Message, Name, ToolCall, only_functions
from app.errors import invalid
from model import prompts
from model.engine.grammars import MOST_CHARACTERS
from model.engine.request import Constraint
from model.prompts.parts import ToolCall as Call
from model.prompts.tools import CallForm, CallReader, Definition, json_line

MOST_TOOLS = 128
_OTHERS = ("patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas")
"""Keywords beside which `properties` need not be all that there are."""


class Function(Fields):
    """What can be called."""

    name: Name
    description: Str | None = Field(None, description="The model is told of it.")
    parameters: dict[str, Any] | None = Field(
        None,
        description="The JSON schema of its arguments, an object; without one it has none. Other "
        "arguments than the `properties` come only if `additionalProperties` says so.",
    )
    strict: bool | None = Field(
        None, description="Without effect: the schema is always kept to, or refused."
    )

    @field_validator("parameters")
    @classmethod
    def _schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        if value.get("type", "object") != "object":
            raise ValueError("is of no object; arguments have names, so `type` must be 'object'")
        try:
            length = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except UnicodeEncodeError:
            raise ValueError("has half a surrogate pair; it is no text") from None
        most = MOST_CHARACTERS["json_schema"]
        if length > most:
            raise ValueError(f"has {length} bytes as JSON; at most {most} are allowed")
        return value

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """Of an object, with what it leaves open for an object that nobody described closed."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        schema = {"type": "object", **self.parameters}
        if "properties" in schema and not any(other in schema for other in _OTHERS):
            schema.setdefault("additionalProperties", False)
        return schema


class Tool(Fields):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function

    @model_validator(mode="before")
    @classmethod
    def _is_function(cls, value: Any) -> Any:
        return only_functions(value)

    @property
    def definition(self) -> Definition:
        """As templates have it."""
        given = self.function.model_dump(include={"name", "description", "parameters"})
        function = {key: value for key, value in given.items() if value is not None}
        return {"type": "function", "function": function}


def _named_apart(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"has two functions named '{twice}'; each needs a name of its own")
    return tools


Tools = Annotated[
    list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True), AfterValidator(_named_apart)
]


class FunctionName(Fields):
    name: Name


class NamedTool(Fields):
    """The function that is to be called."""

    type: Literal["function"]
    function: FunctionName

    @model_validator(mode="before")
    @classmethod
    def _is_function(cls, value: Any) -> Any:
        return only_functions(value)


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedTool, Tag("named")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "named"),
]


def check_choice(choice: str | NamedTool | None, info: ValidationInfo) -> None:
    """Whether `tools`, which are checked already, have what is chosen.

    Raises:
        ValueError: they have not.
    """
    if "tools" not in info.data or choice in (None, "none", "auto"):
        return
    names = [tool.function.name for tool in info.data["tools"] or ()]
    if not names:
        raise ValueError("asks for a call, and there are no `tools`")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise ValueError(
            f"names '{choice.function.name}', which is none of `tools`: {', '.join(names)}"
        )


@dataclass(frozen=True)
class Calling:
    """The tools of one request, and how its model calls them."""

    tools: Sequence[tuple[int, Tool]]
    """That may be called, each with its place in the body; not empty."""
    form: CallForm
    only: bool
    """Whether the answer is to be a call, rather than a call or text."""

    def reader(self) -> CallReader:
        """Of one answer."""
        return CallReader(self.form, only=self.only)

    @property
    def answers(self) -> Form:
        """What the answers must be."""
        parts = [
            Form(f"tools[{index}].function.parameters", partial(_arguments, tool))
            for index, tool in self.tools
        ]
        return Form("tools", self._constraint, parts)

    def _constraint(self) -> Constraint:
        form = self.form
        functions = [tool.function for _, tool in self.tools]
        value = {
            "before": form.before,
            "between": form.between,
            "after": form.after,
            "mark": None if self.only else form.mark,
            "follows_text": form.follows_text,
            "tools": {function.name: function.schema_of_arguments for function in functions},
        }
        return Constraint("call", json_line(value))


def _arguments(tool: Tool) -> Constraint:
    return Constraint("json_schema", json_line(tool.function.schema_of_arguments))


def conversation(messages: Sequence[Message]) -> list[prompts.Message]:
    """What the messages of a request say, with the call that each result is of.

    Raises:
        Problem: 422, a result is of no earlier call, or the arguments of a call are no JSON object.
    """
    calls: dict[str, Call] = {}
    found: list[prompts.Message] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            assert message.tool_call_id is not None
            call = calls.get(message.tool_call_id)
            if call is None:
                known = ", ".join(list(calls)[-3:]) or "none"
                raise invalid(
                    f"messages[{index}].tool_call_id",
                    f"is that of no earlier message's tool_calls; the last ones are: {known}",
                )
            found.append(prompts.Message("user", message.text, result_of=call))
            continue
        made = [
            _call(call, f"messages[{index}].tool_calls[{place}].function.arguments")
            for place, call in enumerate(message.tool_calls or ())
        ]
        calls |= {call.id: call for call in made}
        found.append(prompts.Message(message.chat_role, message.text, calls=tuple(made)))
    return found


def _call(call: ToolCall, field: str) -> Call:
    try:
        # Some clients put an empty text together where there are no arguments.
        arguments = json.loads(call.function.arguments or "{}")
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise invalid(field, "is no JSON object, as the arguments of a call are")
    return Call(call.function.name, arguments, call.id)
