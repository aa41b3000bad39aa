"""A user's JSON schema in the form in which the grammar library keeps to it.

The library (llguidance) refuses keywords that it does not know, even where their value asks for
nothing, and there are bounds of numbers that it does not keep. Here the former are dropped and the
latter replaced; what is then generated is always of the user's schema.
"""

import json
import sys
from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any

Schema = dict[str, Any]

_SCHEMAS_BY_NAME = frozenset(
    ("properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions")
)
_DATA = frozenset(("const", "enum", "default", "example", "examples"))

_ASKS_NOTHING = {
    "uniqueItems": ("false",),
    "unevaluatedItems": ("true", "{}"),
    "unevaluatedProperties": ("true", "{}"),
    "propertyNames": ("true", "{}", '{"type": "string"}'),
    "dependentRequired": ("{}",),
    "dependentSchemas": ("{}",),
    "dependencies": ("{}",),
    "not": ("false",),
}
"""Values, as JSON, with which a keyword that the library refuses excludes nothing."""
_WITHOUT = {
    "if": ("then", "else"),
    "then": ("if",),
    "else": ("if",),
    "minContains": ("contains",),
    "maxContains": ("contains",),
}
"""Keywords that say nothing where all of these others are absent."""

_SIDES = (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1))
_DIGITS = Context(prec=15)
"""The numbers that the library holds exactly, as every double does."""
_LARGE = Decimal(10) ** 15
_TINY = Decimal("1e-15")


def adapt(schema: Schema) -> None:
    """Rewrite `schema`, in place."""
    parts = list(subschemas(schema))
    for part in parts:
        _drop_what_asks_nothing(part)
    _keep_bounds(parts)


def subschemas(schema: Schema) -> Iterator[Schema]:
    """`schema` and all schemas in it; also those below unknown keywords, which a $ref may name."""
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            yield node
            for key, value in node.items():
                if key in _SCHEMAS_BY_NAME and isinstance(value, dict):
                    stack += value.values()
                elif key not in _DATA:
                    stack.append(value)


def _drop_what_asks_nothing(part: Schema) -> None:
    for key, values in _ASKS_NOTHING.items():
        if key in part and json.dumps(part[key]) in values:
            del part[key]
    if part.get("minContains") == 0 and "maxContains" not in part:
        part.pop("contains", None)
    for key, others in _WITHOUT.items():
        if key in part and not any(other in part for other in others):
            del part[key]


def _keep_bounds(parts: list[Schema]) -> None:
    """Replace the bounds that the library does not keep by the next ones inside that it does.

    It has numbers of 15 digits, and of an interval that begins behind a whole number and ends
    before the next, as of `{"exclusiveMinimum": 0, "maximum": 0.5}`, it accepts the whole number.
    """
    for part in parts:
        for inclusive, exclusive, sign in _SIDES:
            if part.get(exclusive) is True and _number(part, inclusive) is not None:
                part[exclusive] = part.pop(inclusive)  # as in draft 4
            for key in (inclusive, exclusive):
                value = _number(part, key)
                if value is not None and not _held(value, strict=key == exclusive):
                    _narrow(part, key, sign * _DIGITS.next_plus(sign * value))
    for (_, exclusive, sign), (*opposite, _) in zip(_SIDES, reversed(_SIDES), strict=True):
        # The library intersects schemas: the other bound may be anywhere.
        ends = [_number(part, key) for part in parts for key in opposite]
        for part in parts:
            value = _number(part, exclusive)
            if value is None:
                continue
            start = sign * value
            near = [sign * end for end in ends if end is not None and 0 < sign * end - start < 1]
            if near and start >= 0 and start == start.to_integral_value():
                after = _DIGITS.next_plus(start) if start else min(_TINY, min(near) / 10)
                _narrow(part, exclusive, sign * after)


def _number(part: Schema, key: str) -> Decimal | None:
    """A bound, if it is there and within what a double can be; else the library refuses it."""
    value: Any = part.get(key)
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        return None
    return Decimal(repr(value))


def _held(value: Decimal, *, strict: bool) -> bool:
    """Whether the library keeps such a bound; a `strict` one it has to add one to."""
    digits = len(value.normalize().as_tuple().digits)
    return digits <= _DIGITS.prec and not (strict and abs(value) >= _LARGE)


def _narrow(part: Schema, key: str, value: Decimal) -> None:
    """Replace the bound `key` by an inclusive one, unless that is there and narrower."""
    inclusive, _, sign = next(side for side in _SIDES if key in side)
    del part[key]
    present = _number(part, inclusive)
    if present is None or sign * present < sign * value:
        part[inclusive] = int(value) if value == value.to_integral_value() else float(value)
