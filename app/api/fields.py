"""Types of the fields of request bodies, and what all bodies have in common.

Unknown fields are refused, so that a misspelt one cannot be ignored in silence; so are numbers
given as text, and NaN.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from app.setting_types import MOST_BATCH, probability_band
from model.engine.request import HIGHEST_PRIORITY, Constraint

# A body of a megabyte can hold hundreds of thousands of items or fields, each with an error of its
# own: these bounds end validation early, since it runs on the event loop.
_MOST_FIELDS = 100
MOST_TOKENS = 1_000_000
MOST_MESSAGES = 4096
"""Of a conversation."""
MOST_PARTS = 256
"""Of a message."""
MOST_INPUTS = 2048
"""Of a request for embeddings: OpenAI's own bound, up to which clients put texts together."""


def _unicode(text: str) -> str:
    """JSON can hold halves of surrogate pairs, which are no characters and have no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a surrogate pair at {error.start}; it is no text") from None
    return text


def text_or_list(value: Any) -> str:
    return "list" if isinstance(value, list) else "text"


Str = Annotated[str, AfterValidator(_unicode)]
NonEmpty = Annotated[str, Field(min_length=1), AfterValidator(_unicode)]
StopString = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_unicode)]
User = Annotated[Str, Field(max_length=256)]
"""Who asks, as the client says."""
NewTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]

# The discriminator decides by the kind of the value, so that an error is told once and not for
# each member of the union.
Prompts = Annotated[
    Annotated[Str, Tag("text")]
    | Annotated[list[Str], Field(min_length=1, max_length=MOST_BATCH, fail_fast=True), Tag("list")],
    Discriminator(text_or_list),
]
Texts = Annotated[
    Annotated[NonEmpty, Tag("text")]
    | Annotated[
        list[NonEmpty], Field(min_length=1, max_length=MOST_BATCH, fail_fast=True), Tag("list")
    ],
    Discriminator(text_or_list),
]
Stops = Annotated[
    Annotated[StopString, Tag("text")]
    | Annotated[list[StopString], Field(max_length=8), Tag("list")],
    Discriminator(text_or_list),
]


def _band(value: list[float]) -> list[float]:
    return list(probability_band(value)) if value else value


Band = Annotated[list[float], Field(max_length=2), AfterValidator(_band)]
"""Two probabilities, the lower one first; or nothing."""


class Fields(BaseModel):
    """An object of a request."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _not_too_many(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(values) > _MOST_FIELDS:
            raise ValueError(
                f"has {len(values)} fields; there are only {', '.join(cls.model_fields)}"
            )
        return values


class RequestBody(Fields):
    """A request body."""

    model: Str | None = Field(
        None,
        description="Name of a model, as /models lists them; by default the one of the model set.",
    )


class PriorityFields(RequestBody):
    """What the engine works on."""

    priority: int = Field(
        0,
        ge=0,
        le=HIGHEST_PRIORITY,
        description="How urgent it is: all of a higher one go before all of a lower one. Above 0, "
        "the API key has to allow it.",
    )


class TextFormat(Fields):
    """Any text."""

    type: Literal["text"]

    def constraint(self) -> None:
        return None


class JsonObjectFormat(Fields):
    """A JSON object, whatever is in it."""

    type: Literal["json_object"]

    def constraint(self) -> Constraint:
        return Constraint("json_schema", '{"type":"object"}')


class NamedSchema(Fields):
    """A JSON schema as OpenAI's clients send it."""

    name: Str = Field("", max_length=64, description="Without effect.")
    description: Str | None = Field(None, description="Without effect: the model is not told.")
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON schema.")
    strict: bool | None = Field(
        None, description="Without effect: the schema is always kept to, or refused."
    )


class JsonSchemaFormat(Fields):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def constraint(self) -> Constraint:
        """
        Raises:
            ValueError: the schema has NaN or infinity.
            RecursionError: it is nested too deeply.
        """
        schema = json.dumps(self.json_schema.schema_, ensure_ascii=False, allow_nan=False)
        return Constraint("json_schema", schema)

    @classmethod
    def of(cls, schema: dict[str, Any]) -> "JsonSchemaFormat":
        return cls(type="json_schema", json_schema=NamedSchema.model_validate({"schema": schema}))


class RegexFormat(Fields):
    """A text that a regular expression matches as a whole."""

    type: Literal["regex"]
    regex: NonEmpty = Field(description="In the syntax of Rust's `regex`, without look-around.")

    def constraint(self) -> Constraint:
        return Constraint("regex", self.regex)


class ChoiceFormat(Fields):
    """One of several texts."""

    type: Literal["choice"]
    choices: list[NonEmpty] = Field(min_length=1, max_length=1000, fail_fast=True)

    def constraint(self) -> Constraint:
        return Constraint("choice", json.dumps(self.choices, ensure_ascii=False))


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | ChoiceFormat,
    Discriminator("type"),
]
"""What a generated text must be as a whole. Each has a method `constraint`."""
