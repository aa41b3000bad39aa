"""Types of the fields of request bodies, and what all bodies have in common.

Unknown fields are refused, so that a misspelt one cannot be ignored in silence; so are numbers
given as text, and NaN.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from app.settings import MOST_BATCH

# A body of a megabyte can hold hundreds of thousands of items or fields, each with an error of its
# own: these bounds end validation early, since it runs on the event loop.
_MOST_FIELDS = 100
MOST_TOKENS = 1_000_000


def _unicode(text: str) -> str:
    """JSON can hold halves of surrogate pairs, which are no characters and have no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a surrogate pair at {error.start}; it is no text") from None
    return text


def _one_or_many(value: Any) -> str:
    return "list" if isinstance(value, list) else "text"


Str = Annotated[str, AfterValidator(_unicode)]
NonEmpty = Annotated[str, Field(min_length=1), AfterValidator(_unicode)]
StopString = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_unicode)]

# The discriminator decides by the kind of the value, so that an error is told once and not for
# each member of the union.
Prompts = Annotated[
    Annotated[Str, Tag("text")]
    | Annotated[list[Str], Field(min_length=1, max_length=MOST_BATCH, fail_fast=True), Tag("list")],
    Discriminator(_one_or_many),
]
Texts = Annotated[
    Annotated[NonEmpty, Tag("text")]
    | Annotated[
        list[NonEmpty], Field(min_length=1, max_length=MOST_BATCH, fail_fast=True), Tag("list")
    ],
    Discriminator(_one_or_many),
]
Stops = Annotated[
    Annotated[StopString, Tag("text")]
    | Annotated[list[StopString], Field(max_length=8), Tag("list")],
    Discriminator(_one_or_many),
]


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    model: Str | None = Field(
        None,
        description="Name of a model, as /models lists them; by default the one of the model set.",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_too_many(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(values) > _MOST_FIELDS:
            raise ValueError(
                f"has {len(values)} fields; there are only {', '.join(cls.model_fields)}"
            )
        return values
