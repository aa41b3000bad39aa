"""Schemas as the grammar library keeps to them: bounds, and keywords that ask for nothing."""

import json
from decimal import Decimal
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from model.engine.grammar_check import compile_here
from model.engine.grammars import grammar_of
from model.engine.json_schema import adapt
from model.engine.request import Constraint

TOKENIZER = LLTokenizer("byte")


def grammar(schema: Any) -> str:
    return grammar_of(Constraint("json_schema", json.dumps(schema)))


def matcher(schema: Any) -> LLMatcher:
    return LLMatcher(TOKENIZER, grammar(schema), log_level=0)


def accepts(schema: LLMatcher, text: str) -> bool:
    copy = schema.deep_copy()
    return all(map(copy.consume_token, text.encode())) and copy.is_accepting()


# ---- bounds of numbers ----

PLACES: list[Any] = [
    lambda low, high: {"type": "number", **low, **high},
    lambda low, high: {"allOf": [{"type": "number", **low}, high]},
    lambda low, high: {"$defs": {"low": {"type": "number", **low}}, "$ref": "#/$defs/low", **high},
    lambda low, high: {**low, "anyOf": [{"type": "number", **high}, {"type": "null"}]},
    lambda low, high: {"$ref": "#/a/b", "a": {"b": {"type": "number", **low, **high}}},
]
"""Two bounds in one schema, and in several that the library intersects."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("low", "high", "good", "bad"),
    [
        (
            {"exclusiveMinimum": 0},
            {"maximum": 0.5},
            "0.1 0.5 0.0001 0.000000000001",
            "0 0.0 -0 0.6 1",
        ),
        ({"exclusiveMinimum": 0}, {"exclusiveMaximum": 0.001}, "0.0005 0.00000001", "0 0.00 0.001"),
        ({"minimum": -0.5}, {"exclusiveMaximum": 0}, "-0.5 -0.001", "-0 0 -0.0 -0.6 0.1"),
        ({"exclusiveMinimum": 1}, {"maximum": 1.5}, "1.5 1.01 1.25", "1 1.0 1.6 0"),
        (
            {"exclusiveMinimum": -100.25},
            {"exclusiveMaximum": -100},
            "-100.1",
            "-100 -100.0 -100.25",
        ),
        ({"exclusiveMinimum": 99.0}, {"maximum": 99.09}, "99.01 99.0001", "99 99.0 99.1"),
        ({"minimum": 1, "exclusiveMinimum": True}, {"maximum": 1.5}, "1.5 1.01", "1 1.0 2"),
        ({"exclusiveMinimum": 0}, {"maximum": 1e-20}, "0.00000000000000000001", "0 0.1"),
        ({"minimum": 0.25, "exclusiveMinimum": 0}, {"maximum": 0.5}, "0.25 0.3", "0 0.1"),
    ],
)
def test_a_whole_number_that_is_excluded_is_never_accepted(
    place: Any, low: dict[str, Any], high: dict[str, Any], good: str, bad: str
) -> None:
    schema = place(low, high)
    own = matcher(schema)
    assert not own.is_error(), own.get_error()
    assert [text for text in good.split() if not accepts(own, text)] == []
    assert [text for text in bad.split() if accepts(own, text)] == []


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "number", "minimum": 99.00000000000001}, "99.1 100", "99 99.0"),
        (
            {"type": "number", "exclusiveMaximum": 607124382.3216762},
            "607124382 3.5",
            "607124382.3216762",
        ),
        ({"type": "integer", "exclusiveMinimum": 2**53}, str(2**53 + 10**9), str(2**53)),
        ({"type": "integer", "minimum": 2**53 + 1}, str(2**53 + 10**9), str(2**53)),
        ({"type": "integer", "exclusiveMaximum": 10**18}, "7 1000", str(10**18)),
        ({"type": "integer", "maximum": 2**63 - 1}, "0 -5 12345678", str(2**63)),
        (
            {"type": "number", "maximum": 3.141592653589793},
            "3 2.75 3.14159265358978",
            "3.1415926535898 3.2",
        ),
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 2.5}, "1 2", "0 3"),
    ],
)
def test_a_bound_with_many_digits_is_not_overstepped(schema: Any, good: str, bad: str) -> None:
    own = matcher(schema)
    assert not own.is_error(), own.get_error()
    assert [text for text in good.split() if not accepts(own, text)] == []
    assert [text for text in bad.split() if accepts(own, text)] == []


def test_bounds_that_the_library_keeps_stay_as_they_are() -> None:
    for schema in (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "integer", "minimum": -5, "exclusiveMaximum": 10**6},
        {"exclusiveMinimum": 0.25, "exclusiveMaximum": 0.5, "multipleOf": 0.01},
        {"properties": {"maximum": {"exclusiveMinimum": 0}, "exclusiveMinimum": {"maximum": 3.5}}},
        {"const": {"exclusiveMinimum": 0, "maximum": 0.5}},
    ):
        before = json.dumps(schema)
        adapt(schema)
        assert json.dumps(schema) == before


@pytest.mark.parametrize("value", ["9" * 400, "1e400", "NaN", "-Infinity", '"5"', "null", "[1]"])
def test_a_bound_that_is_no_number_is_left_to_the_library(value: str) -> None:
    text = f'{{"type": "number", "exclusiveMinimum": 0, "maximum": {value}}}'
    assert LLMatcher(TOKENIZER, grammar_of(Constraint("json_schema", text)), log_level=0).is_error()


WHOLE = st.sampled_from([0, 1, 2, 9, 10, 99, 100, 12345])
NUMBERS = st.one_of(
    WHOLE.map(Decimal),
    st.builds(
        lambda whole, part, digits: Decimal(whole) + Decimal(part).scaleb(-digits),
        WHOLE,
        st.integers(1, 9999),
        st.integers(1, 8),
    ),
)
SIGNED = st.builds(lambda number, sign: number * sign, NUMBERS, st.sampled_from([1, -1]))
NEAR = st.sampled_from([Decimal(text) for text in ("0.5", "0.001", "0.25", "1", "-0.3", "-0.0625")])
PAIRS = st.one_of(
    st.tuples(SIGNED, SIGNED), st.builds(lambda number, more: (number, number + more), SIGNED, NEAR)
)
LOW, HIGH = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(
    PAIRS.filter(lambda pair: pair[0] != pair[1]).map(sorted),
    st.sampled_from(LOW),
    st.sampled_from(HIGH),
    st.sampled_from(["number", "integer"]),
)
def test_no_number_outside_is_accepted(
    bounds: list[Decimal], low: str, high: str, kind: str
) -> None:
    start, end = bounds
    schema = {"type": kind, low: float(start), high: float(end)}
    own = matcher(schema)
    if own.is_error():
        assert kind == "integer", own.get_error()  # none may be in between
        return
    tried = {n + d for n in bounds for d in map(Decimal, ("0", "1", "-1", "1e-9", "-1e-9", "0.1"))}
    tried |= {Decimal(int(n)) for n in bounds} | {(start + end) / 2, Decimal(0)}
    for number in tried:
        for text in {format(number, "f"), format(number, ".12f"), format(number, "f") + ".0"}:
            try:
                value = json.loads(text)
            except ValueError:
                continue
            above = number > start or (number == start and low == "minimum")
            below = number < end or (number == end and high == "maximum")
            if accepts(own, text):
                assert above, text
                assert below, text
                jsonschema.validate(value, schema)


# ---- keywords that ask for nothing ----

NOTHING: list[dict[str, Any]] = [
    {"uniqueItems": False},
    {"unevaluatedItems": True},
    {"unevaluatedItems": {}},
    {"unevaluatedProperties": True},
    {"propertyNames": True},
    {"propertyNames": {"type": "string"}},
    {"dependentRequired": {}},
    {"dependentSchemas": {}},
    {"dependencies": {}},
    {"not": False},
    {"if": {"type": "null"}},
    {"then": {"type": "null"}, "else": False},
    {"minContains": 2, "maxContains": 1},
    {"contains": {"type": "null"}, "minContains": 0},
    # These the library knows.
    {"minItems": 0, "minLength": 0, "minProperties": 0, "required": [], "additionalItems": False},
    {"title": "t", "description": "d", "$comment": "c", "default": 1, "examples": [1]},
    {"deprecated": True, "readOnly": True, "writeOnly": True, "$id": "http://a/b", "$anchor": "a"},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "contentEncoding": "base64"},
]


@pytest.mark.parametrize("nothing", NOTHING, ids=lambda nothing: next(iter(nothing)))
def test_keywords_that_ask_for_nothing_are_no_obstacle(nothing: dict[str, Any]) -> None:
    array = {"type": "array", "items": {"type": "integer"}, **nothing}
    nested = {"type": "object", "properties": {"a": array}, "required": ["a"]}
    for schema, text in (
        (array, "[1, 1]"),
        (nested, '{"a": [1, 1]}'),
        ({"$defs": {"x": array}, "anyOf": [{"$ref": "#/$defs/x"}, {"type": "null"}]}, "[1, 1]"),
        ({"type": "array", "prefixItems": [array], "items": array}, "[[1], [2]]"),
    ):
        own = matcher(schema)
        assert not own.is_error(), own.get_error()
        assert accepts(own, text)
        jsonschema.validate(json.loads(text), schema)


def test_what_only_looks_like_a_keyword_stays() -> None:
    """As a property of that name, or as data."""
    names = {"uniqueItems": False, "not": False, "if": {"type": "null"}, "contains": True}
    schema = {"type": "object", "properties": dict(names), "enum": [dict(names)]}
    adapt(schema)
    assert schema == {"type": "object", "properties": names, "enum": [names]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "uniqueItems": True},
        {"type": "array", "contains": {"type": "null"}},
        {"type": "array", "contains": True, "minContains": 0, "maxContains": 3},
        {"type": "object", "propertyNames": {"pattern": "^a"}},
        {"if": {"type": "null"}, "then": False},
        {"not": {"type": "null"}},
        {"type": "object", "unevaluatedProperties": False},
    ],
)
def test_keywords_that_ask_for_something_are_refused(schema: Any) -> None:
    assert "Unimplemented keys" in (compile_here(grammar(schema)) or "")


# ---- patternProperties ----


def closed(names: list[str], *patterns: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "patternProperties": {pattern: {"type": "integer"} for pattern in patterns},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        closed(["x"], "^x$"),
        closed(["x", "y"], "^(x|y)$"),
        closed(["x", "né"], "^x$", "^né$"),
        {"type": "array", "items": closed(['a"b'], '^a"b$')},
    ],
)
def test_patterns_that_match_only_properties_are_refused_with_the_reason(schema: Any) -> None:
    """The library would allow a comma behind the last property, and then nothing."""
    problem = compile_here(grammar(schema)) or ""
    assert "match only names that are in properties, which is not supported" in problem


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (closed(["x"], "^x"), '{"x": 1, "xy": 2}'),
        (closed(["x"], "^x$", "^y$"), '{"x": 1, "y": 2}'),
        (closed(["x"], "^[a-z]$"), '{"x": 1, "c": 2}'),
        (closed([], "^x$"), '{"x": 1}'),
        ({**closed(["x"], "^x$"), "additionalProperties": True}, '{"x": 1, "b": null}'),
    ],
)
def test_patterns_beside_properties(schema: Any, text: str) -> None:
    assert compile_here(grammar(schema)) is None
    assert accepts(matcher(schema), text)
    jsonschema.validate(json.loads(text), schema)
