"""Marks of the fields that clients of other APIs send and nothing here acts on.

One that means something is refused by name, never ignored (`Only`). One that asks for nothing here
is taken, and the answer names it in the header X-Ignored-Fields (`IGNORED`).
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from app.envelopes import UNSUPPORTED
from app.ops.context import IGNORED_FIELDS, REQUEST_CONTEXT


def unsupported(message: str) -> PydanticCustomError:
    """The error of a parameter that nothing here does."""
    return PydanticCustomError(UNSUPPORTED, "{message}", {"message": message})


class Only:
    """Marks a parameter that nothing here does: it may only have values that ask for nothing.

    It is refused by name otherwise, never ignored.
    """

    def __init__(self, *values: Any) -> None:
        self._values = values

    def _check(self, value: Any) -> Any:
        # 1 is as good as 1.0, but 0 is not false.
        if not any(
            value == known and isinstance(value, bool) == isinstance(known, bool)
            for known in self._values
        ):
            named = {None: "null", False: "false", True: "true"}
            known = " or ".join(
                named[v] if v is None or isinstance(v, bool) else repr(v) for v in self._values
            )
            raise unsupported(f"is not supported here; leave it out (or let it be {known})")
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"enum": list(self._values), "description": "Not supported."}


class _Ignored:
    """The class of `IGNORED`."""


IGNORED = _Ignored()
"""Marks a field that asks for nothing here, whatever its value."""


def note_ignored(body: BaseModel) -> None:
    """Have the answer name the fields of `body` that are ignored."""
    names = dict.fromkeys(_ignored(body))
    context = REQUEST_CONTEXT.get()
    if names and context is not None:
        context.headers[IGNORED_FIELDS] = ", ".join(names)


def _ignored(body: BaseModel, within: str = "") -> Iterator[str]:
    """Names like `messages.content.cache_control`, each as often as the field is there."""
    for name, field in type(body).model_fields.items():
        value = getattr(body, name)
        if value is None or name not in body.model_fields_set:
            continue
        path = within + (field.alias or name)
        if IGNORED in field.metadata:
            yield path
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, BaseModel):
                yield from _ignored(part, f"{path}.")
