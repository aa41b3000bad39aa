"""What a model is given to answer: the fields that messages and their counting have in common.

`null` means the same as leaving a field out. What the clients can send and nothing here does is
listed, with the values that ask for nothing: all others are refused by name, as is what is not
listed. The `cache_control` of whatever it is asks for nothing: prompts that begin alike share
their beginning in any case.
"""

from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from app.api.field_marks import IGNORED, Only, unsupported
from app.api.fields import (
    MOST_MESSAGES,
    MOST_PARTS,
    Fields,
    JsonSchemaFormat,
    Str,
    text_or_list,
)
from app.api.prompts import ChatPrompt
from model.prompts import Message

CacheControl = Annotated[dict[str, Any] | None, IGNORED]


class TextBlock(Fields):
    """A piece of a message, or of the system prompt."""

    type: Literal["text"]
    text: Str
    cache_control: CacheControl = None
    citations: Annotated[Any, Only(None, [])] = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise unsupported(
                f"is of the type {kind[:50]!r}, which is not supported; only 'text' is"
            )
        return value


Content = Annotated[
    Annotated[Str, Tag("text")]
    | Annotated[list[TextBlock], Field(max_length=MOST_PARTS, fail_fast=True), Tag("list")],
    Discriminator(text_or_list),
]


def _text(content: str | list[TextBlock]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content if block.text)


class MessageParam(Fields):
    """A message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content = Field(description="The text; of several blocks, each begins a line.")


def _answerable(messages: list[MessageParam]) -> list[MessageParam]:
    if all(message.role != "user" for message in messages):
        raise ValueError("have none of the role 'user', which could be answered")
    text = _text(messages[-1].content)
    if messages[-1].role == "system":
        raise ValueError("end with a message of the role 'system'; there is nothing to answer")
    if messages[-1].role == "user" and not text:
        raise ValueError("end with a message without text; there is nothing to answer")
    if messages[-1].role == "assistant" and text != text.rstrip():
        raise ValueError(
            "end with a message of the role 'assistant' that ends with white space; leave that "
            "out: the answer goes on from there"
        )
    return messages


class JSONOutputFormat(Fields):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON schema.")


class OutputConfig(Fields):
    """Of what form the answer is to be."""

    effort: Annotated[Any, Only(None)] = None
    format: JSONOutputFormat | None = None


class ConversationFields(Fields):
    """A conversation."""

    model: Str = Field(description="Name of a model, as /v1/models lists them.")
    messages: Annotated[
        list[MessageParam],
        Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True),
        AfterValidator(_answerable),
    ] = Field(
        description="Several in a row of one role are one, each beginning a line. If the last one "
        "is the assistant's, the answer goes on from it. They are put before the model in its own "
        "template; nothing is left out: what is longer than the context is an error."
    )
    system: Content | None = Field(None, description="The system prompt.")
    output_config: OutputConfig | None = None
    cache_control: CacheControl = None
    speed: Annotated[Any, Only(None, "standard")] = None
    thinking: Annotated[Any, Only(None, {"type": "disabled"})] = None
    tool_choice: Annotated[Any, Only(None, {"type": "none"})] = None
    tools: Annotated[Any, Only(None, [])] = None

    @property
    def response_format(self) -> JsonSchemaFormat | None:
        config = self.output_config
        if config is None or config.format is None:
            return None
        return JsonSchemaFormat.of(config.format.schema_)

    @property
    def prompt(self) -> ChatPrompt:
        """The conversation, as the model reads it."""
        turns: list[Message] = []
        if self.system is not None and (system := _text(self.system)):
            turns.append(Message("system", system))
        for role, group in groupby(self.messages, lambda message: message.role):
            texts = (_text(message.content) for message in group)
            turns.append(Message(role, "\n".join(filter(None, texts))))
        beginning = turns.pop().text if turns[-1].role == "assistant" else ""
        unthinking = "thinking" if self.thinking is not None else None
        return ChatPrompt(turns, "messages", beginning, unthinking)
