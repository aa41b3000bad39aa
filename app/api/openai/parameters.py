"""Types of the parameters that OpenAI's clients send.

`null` means the same as leaving a field out, as it does there. What the clients can send and
nothing here does is listed too, with the values that ask for nothing: all others are refused by
name. So is what is not listed.
"""

from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from app.api.field_marks import Only, unsupported
from app.api.fields import (
    MOST_INPUTS,
    MOST_MESSAGES,
    MOST_PARTS,
    MOST_TOKENS,
    Fields,
    NonEmpty,
    Str,
)
from app.api.prompts import TextsOrTokens
from app.setting_types import MOST_BATCH
from model.prompts import Role

MOST_BIASES = 1024
_MOST_CALLS = 128


def _kind(value: Any) -> str:
    """Which member of the union of prompts a value is meant to be."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else None
    if isinstance(first, list):
        return "token lists"
    return "tokens" if isinstance(first, int) else "texts"


Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=MOST_TOKENS, fail_fast=True)]
_List = Field(min_length=1, max_length=MOST_BATCH, fail_fast=True)
Prompts = Annotated[
    Annotated[Str, Tag("text")]
    | Annotated[list[Str], _List, Tag("texts")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], _List, Tag("token lists")],
    Discriminator(_kind),
]


_Inputs = Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)
Inputs = Annotated[
    Annotated[NonEmpty, Tag("text")]
    | Annotated[list[NonEmpty], _Inputs, Tag("texts")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], _Inputs, Tag("token lists")],
    Discriminator(_kind),
]


def _not_too_many(biases: Any) -> Any:
    # Before the items are looked at: each could be an error of its own.
    if isinstance(biases, dict) and len(biases) > MOST_BIASES:
        raise ValueError(f"has {len(biases)} tokens; at most {MOST_BIASES} are allowed")
    return biases


LogitBias = Annotated[
    dict[
        Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,8})$")],
        Annotated[float, Field(ge=-100, le=100)],
    ],
    BeforeValidator(_not_too_many),
    Field(json_schema_extra={"additionalProperties": False, "maxProperties": MOST_BIASES}),
]


class StreamOptions(Fields):
    """What else a stream is to bring."""

    include_usage: bool | None = Field(
        False, description="End with an event that has the numbers of tokens."
    )
    include_obfuscation: Annotated[Any, Only(None, False)] = None


class TextPart(Fields):
    """A piece of a message."""

    type: Literal["text"]
    text: Str
    prompt_cache_breakpoint: Annotated[Any, Only(None)] = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind in ("image_url", "input_audio", "file", "refusal"):
            raise unsupported(f"is of the type '{kind}', which is not supported; only 'text' is")
        return value


def only_functions(value: Any) -> Any:
    """Refuse a tool, or what names or calls one, that is no function."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind != "function":
        raise unsupported(
            f"is of the type '{kind[:64]}', which is not supported; only 'function' is"
        )
    return value


Name = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
"""Of a tool."""


class CalledFunction(Fields):
    """A function that is called."""

    name: Name
    arguments: Str = Field(
        description="A JSON object; in an answer whose `finish_reason` is not `tool_calls`, only "
        "its beginning."
    )


class ToolCall(Fields):
    """A call of a tool."""

    id: Annotated[Str, Field(max_length=256)]
    type: Literal["function"]
    function: CalledFunction

    @model_validator(mode="before")
    @classmethod
    def _is_function(cls, value: Any) -> Any:
        return only_functions(value)


class Message(Fields):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[ToolCall], Field(max_length=_MOST_CALLS, fail_fast=True)] | None = (
        Field(None, description="What the assistant called.")
    )
    content: (
        Annotated[
            Annotated[Str, Tag("text")]
            | Annotated[
                list[TextPart],
                Field(min_length=1, max_length=MOST_PARTS, fail_fast=True),
                Tag("list"),
            ],
            Discriminator(lambda value: "list" if isinstance(value, list) else "text"),
        ]
        | None
    ) = Field(
        None,
        validate_default=True,
        description="The text; of several parts, each begins a line. Only an assistant's message "
        "with `tool_calls` may have none.",
    )
    tool_call_id: Str | None = Field(
        None, validate_default=True, description="Of the call that a `tool`'s message answers."
    )
    name: Str | None = Field(None, description="Of a `tool`, whose call says it already.")
    refusal: Annotated[Any, Only(None)] = None
    annotations: Annotated[Any, Only(None, [])] = None
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None)] = None

    @model_validator(mode="before")
    @classmethod
    def _is_said(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("role") == "function":
            raise unsupported(
                "is of the role 'function', which is not supported; a result is 'tool's"
            )
        return value

    @field_validator("tool_calls")
    @classmethod
    def _assistants(
        cls, value: list[ToolCall] | None, info: ValidationInfo
    ) -> list[ToolCall] | None:
        if value and info.data.get("role") not in (None, "assistant"):
            raise ValueError("are for messages of the role 'assistant' only")
        return value

    @field_validator("content")
    @classmethod
    def _something(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and not info.data.get("tool_calls", True):
            raise PydanticKnownError("missing")
        return value

    @field_validator("tool_call_id")
    @classmethod
    def _of_a_result(cls, value: str | None, info: ValidationInfo) -> str | None:
        role = info.data.get("role")
        if value is None and role == "tool":
            raise PydanticKnownError("missing")
        if value is not None and role not in (None, "tool"):
            raise ValueError("is for messages of the role 'tool' only")
        return value

    @field_validator("name")
    @classmethod
    def _of_a_tool(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("role") not in (None, "tool"):
            raise unsupported("is not supported here; leave it out (or let it be null)")
        return value

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or ())

    @property
    def chat_role(self) -> Role:
        """Whose turn it is; a tool's result is brought by the user."""
        if self.role == "tool":
            return "user"
        return "system" if self.role == "developer" else self.role


def _answerable(messages: list[Message]) -> list[Message]:
    role = messages[-1].role
    if role not in ("user", "tool"):
        raise ValueError(
            f"end with a message of the role '{role}'; the last one must be the user's, which is "
            "answered, or a tool's"
        )
    if role == "user" and not messages[-1].text:
        raise ValueError("end with a message without text; there is nothing to answer")
    return messages


Messages = Annotated[
    list[Message],
    Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True),
    AfterValidator(_answerable),
]


def one_or_many(value: str | list[str] | list[int] | list[list[int]]) -> TextsOrTokens:
    single = isinstance(value, str) or isinstance(value[0], int)
    return cast(TextsOrTokens, [value] if single else value)
