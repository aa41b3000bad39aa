"""Constraints in the language of the grammar library (llguidance)."""

import json
from typing import Any

from model.engine.json_schema import adapt
from model.engine.request import Constraint
from model.errors import UsageError

MOST_CHARACTERS = {"json_schema": 32_768, "regex": 2_048, "choice": 32_768, "call": 131_072}
"""Of a constraint's value, by its kind."""
_JSON_OPTIONS = {
    # White space as `json.dumps` has it. Where JSON may have any, a small model would use up its
    # tokens with it; and where one form is given, it is forced, and needs no step.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}


class ConstraintError(UsageError):
    """A constraint that cannot be used, or not any more."""


def grammar_of(constraint: Constraint) -> str:
    """The constraint in llguidance's own language.

    Raises:
        ConstraintError: its value is too long, no Unicode, or not what its kind needs.
    """
    from llguidance import LLMatcher

    value = constraint.value
    _check(value, constraint.kind)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(value)
    try:
        parsed = json.loads(value)
        if constraint.kind == "json_schema":
            schema = json.dumps(_schema(parsed), ensure_ascii=False)
            return LLMatcher.grammar_from_json_schema(schema)
        if constraint.kind == "call":
            return _call(parsed)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"is no usable JSON: {error}") from None
    texts = isinstance(parsed, list) and all(isinstance(text, str) and text for text in parsed)
    if not texts or not parsed:
        raise ConstraintError("must be one text or more, none of them empty")
    return LLMatcher.grammar_from_lark(f"start: {' | '.join(map(_quoted, parsed))}")


def _check(value: str, kind: str) -> None:
    most = MOST_CHARACTERS[kind]
    if len(value) > most:
        raise ConstraintError(f"has {len(value)} characters; at most {most}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(f"has half a surrogate pair at {error.start}") from None


def _schema(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise ConstraintError("the schema must be a JSON object")
    adapt(schema)
    return {**schema, "x-guidance": _JSON_OPTIONS}


def _quoted(text: str) -> str:
    # With all but ASCII escaped: U+007F as it is would be no part of a string to the library.
    return json.dumps(text)


def _call(value: Any) -> str:
    """A call of a tool, or a text that is none: a rule for the choice between them, and a schema
    for the arguments of each tool."""
    names = {"before", "between", "after", "mark", "follows_text", "tools"}
    if not isinstance(value, dict) or value.keys() != names:
        raise ConstraintError(f"must be an object of {', '.join(sorted(names))}")
    before, mark, tools = value["before"], value["mark"], value["tools"]
    texts = [before, value["between"], value["after"], "" if mark is None else mark]
    if not all(isinstance(text, str) for text in texts) or not isinstance(tools, dict) or not tools:
        raise ConstraintError("must have texts, and an object of tools, one or more")
    rules = ["start: call"]
    if mark is not None:
        before = before.removeprefix(mark)
        begun = ("ANY " if value["follows_text"] else "") + _quoted(mark)
        rules = [
            "start: TEXT | begun call",
            # Ends where the mark does; what comes then is the call's.
            f"begun[lazy]: {begun}",
            f"TEXT: ANY & ~({begun} ANY)",
            "ANY: /(?s:.*)/",
        ]
    calls, schemas = [], []
    for index, (name, schema) in enumerate(tools.items()):
        _check(json.dumps(schema, ensure_ascii=False), "json_schema")
        schemas.append({"name": f"arguments_{index}", "json_schema": _schema(schema)})
        ends = [_quoted(value["after"])] if value["after"] else []
        begins = _quoted(f"{before}{name}{value['between']}")
        calls.append(" ".join([begins, f"@arguments_{index}", *ends]))
    rules.append(f"call: {' | '.join(calls)}")
    entries = [{"lark_grammar": "\n".join(rules)}, *schemas]
    return json.dumps({"grammars": entries}, ensure_ascii=False)
