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
    model_validator,
)

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


class Message(Fields):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[Str, Tag("text")]
        | Annotated[
            list[TextPart], Field(min_length=1, max_length=MOST_PARTS, fail_fast=True), Tag("list")
        ],
        Discriminator(lambda value: "list" if isinstance(value, list) else "text"),
    ] = Field(description="The text; of several parts, each begins a line.")
    name: Annotated[Any, Only(None)] = None
    refusal: Annotated[Any, Only(None)] = None
    annotations: Annotated[Any, Only(None, [])] = None
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None)] = None
    tool_calls: Annotated[Any, Only(None, [])] = None

    @model_validator(mode="before")
    @classmethod
    def _is_said(cls, value: Any) -> Any:
        role = value.get("role") if isinstance(value, dict) else None
        if role in ("tool", "function"):
            raise unsupported(
                f"is of the role '{role}', which is not supported: there are no tools"
            )
        return value

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)

    @property
    def chat_role(self) -> Role:
        return "system" if self.role == "developer" else self.role


def _answerable(messages: list[Message]) -> list[Message]:
    if messages[-1].role != "user":
        raise ValueError(
            f"end with a message of the role '{messages[-1].role}'; the last one must be the "
            "user's, which is answered"
        )
    if not messages[-1].text:
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
