"""Constraints that are a call of a tool, or a text that is none."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from llguidance import LLMatcher, LLTokenizer

from model.checkpoint import Base
from model.cpu import library
from model.engine.constraints import Constraints
from model.engine.grammar_check import compile_here
from model.engine.grammars import ConstraintError, grammar_of
from model.engine.request import Constraint, Generate, Request, Text
from model.engine.settings import EngineSettings
from model.prompts.tools import CallForm, CallReader, HermesTools, LlamaTools, ToolForm
from model.sampling import SamplingSettings
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from tests.model.engines import exact_base, random_base, text_of
from tests.model.test_constraints import engine
from tests.model.test_determinism import GPT2
from tests.model.test_speculation_engine import Answers, plain, with_oracle
from tests.model.test_speculation_engine import engine as speculating

BYTES = LLTokenizer("byte")
PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city"],
    "additionalProperties": False,
}
TREE: dict[str, Any] = {
    "type": "object",
    "$defs": {
        "node": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/pair"}]},
        "pair": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
    },
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "additionalProperties": False,
}
NONE: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = {"weather": PLACE, "weather_map": TREE, "now": NONE}
FORMS = {"plain": ToolForm.call, "hermes": HermesTools.call, "llama": LlamaTools.call}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def constraint(
    form: CallForm, only: bool, tools: dict[str, Any] = TOOLS, **more: Any
) -> Constraint:
    value = {
        "before": form.before,
        "between": form.between,
        "after": form.after,
        "mark": None if only else form.mark,
        "follows_text": form.follows_text,
        "tools": tools,
        **more,
    }
    return Constraint("call", json.dumps(value))


def accepted(of: Constraint, text: str) -> tuple[bool, bool]:
    """Whether the text can come, and whether it can be all."""
    matcher = LLMatcher(BYTES, grammar_of(of), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    begun = all(map(matcher.consume_token, text.encode()))
    return begun, begun and matcher.is_accepting()


def call(form: CallForm, name: str, arguments: str) -> str:
    return f"{form.before}{name}{form.between}{arguments}{form.after}"


@each_form
@pytest.mark.parametrize("only", [True, False])
def test_a_call_is_of_a_tool_and_its_schema(form: CallForm, only: bool) -> None:
    wanted = constraint(form, only)
    for name, arguments in (
        ("weather", '{"city": "Oslo"}'),
        ("weather", '{"city": "\\"}{<", "days": 14}'),
        ("weather_map", '{"root": [null, [null]]}'),
        ("now", "{}"),
    ):
        assert accepted(wanted, call(form, name, arguments)) == (True, True)
    for name, arguments in (
        ("weather", '{"days": 3}'),
        ("weather", '{"city": "Oslo", "days": 15}'),
        ("weather", '{"city": "Oslo", "more": 1}'),
        ("weather", "{}"),
        ("weather_map", '{"city": "Oslo"}'),
        ("now", '{"city": "Oslo"}'),
        ("weathe", '{"city": "Oslo"}'),
        ("rain", "{}"),
    ):
        assert accepted(wanted, call(form, name, arguments))[0] is False
    whole = call(form, "now", "{}")
    assert accepted(wanted, whole[:-1]) == (True, False)
    assert accepted(wanted, f"{whole}x")[0] is False


@each_form
def test_text_is_free_unless_a_call_has_to_come(form: CallForm) -> None:
    free, bound = constraint(form, only=False), constraint(form, only=True)
    texts = [
        "",
        "It rains.",
        "né 🎉\n\n\0\x7f",
        "{}",
        '{"name"',
        "<tool",
        "<tool_ca<tool_cal",
        "a<b",
    ]
    for text in texts:
        assert accepted(free, text) == (True, True)
        if not form.before.startswith(text):
            assert accepted(bound, text)[0] is False
    assert accepted(free, form.mark) == (True, False)
    assert accepted(free, form.mark + "nothing")[0] is False


def test_a_mark_may_follow_text_and_a_brace_may_not() -> None:
    hermes = constraint(HermesTools.call, only=False)
    said = "I look it up.\n\n<tool_call"
    called = call(HermesTools.call, "now", "{}")
    assert accepted(hermes, f"{said}{called}") == (True, True)
    assert accepted(hermes, f"{said}{called[:-3]}") == (True, False)
    assert accepted(hermes, f"{said}<tool_call>now")[0] is False
    plain = constraint(ToolForm.call, only=False)
    assert accepted(plain, "I look: " + '{"name": "nobody", "arguments": 1}') == (True, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tools": {}}, "an object of tools, one or more"),
        ({"tools": ["a"]}, "an object of tools, one or more"),
        ({"after": 1}, "must have texts"),
        ({"other": 1}, "must be an object of after, before"),
        ({"tools": {"a": []}}, "the schema must be a JSON object"),
        ({"tools": {"a": {"type": "text"}}}, "Invalid type: text"),
        ({"tools": {"a": NONE, "b": {"type": "object", "not": {"required": ["c"]}}}}, '"not"'),
        ({"tools": {"a": {"const": "x" * 40_000}}}, "at most 32768"),
        ({"tools": {str(i): {"const": "x" * 30_000} for i in range(5)}}, "at most 131072"),
        ({"tools": {"a": NONE, "b": {"$ref": "#"}}}, "no text can satisfy it"),
    ],
)
def test_what_cannot_be_used_is_refused(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.engine.constraints.problem_of", compile_here)
    own = engine(random_base(64))
    for only in (True, False):
        with pytest.raises(ConstraintError, match=said):
            own.prepare(constraint(ToolForm.call, only, **change))
    with pytest.raises(ConstraintError, match="must be an object of after, before"):
        own.prepare(Constraint("call", "[1]"))


def test_a_schema_that_takes_too_long_is_found_out(base: Base) -> None:
    tools = {
        "now": NONE,
        "bad": {
            "type": "object",
            "properties": {"a": {"multipleOf": 99_999_989, "type": "integer"}},
        },
    }
    with pytest.raises(ConstraintError, match="too much time or memory"):
        engine(base).prepare(constraint(HermesTools.call, only=True, tools=tools))


MERGES = (
    "<tool",
    "_call",
    ">\n",
    '{"',
    '":',
    '"}',
    "}}",
    "}\n",
    "</tool",
    "weather",
    '", "',
    "na",
    "me",
    "name",
    ' "',
)


@pytest.fixture(scope="module")
def base() -> Base:
    if library.load() is None:
        pytest.skip("the C kernels are not compiled: a row's bits depend on its batch")
    ranks = {bytes([i]): i for i in range(256)}
    ranks |= {merge.encode(): 256 + at for at, merge in enumerate(MERGES)}
    tokenizer = Tokenizer(ranks, PATTERN, {END_OF_TEXT: len(ranks)})
    config = replace(GPT2, vocab_size=tokenizer.vocab_size, context_length=512)
    return exact_base(config, None, tokenizer)


def requests(only: bool, **more: Any) -> list[Request]:
    found = []
    for number in range(18):
        form = list(FORMS.values())[number % 3]
        sampling = SamplingSettings(temperature=(0.7, 3.0)[number % 2], seed=number)
        want = Generate(150, sampling, constraint=constraint(form, only), **more)
        found.append(Request(str(number), (3, 7, number), want))
    return found


def forms() -> Sequence[CallForm]:
    return [list(FORMS.values())[number % 3] for number in range(18)]


def test_every_call_is_whole_and_of_its_schema(base: Base) -> None:
    names = set()
    for events, form in zip(engine(base).run(requests(True)), forms(), strict=True):
        if getattr(events[-1], "reason", None) == "length":
            continue
        reader = CallReader(form, only=True)
        said = reader.push(text_of(events), last=True)
        assert reader.complete
        assert said.name is not None
        jsonschema.validate(json.loads(said.arguments), TOOLS[said.name])
        names.add(said.name)
    assert names == TOOLS.keys()


@pytest.mark.parametrize("only", [True, False])
def test_the_same_alone_and_in_any_batch_and_without_forcing(base: Base, only: bool) -> None:
    asked = requests(only)
    together = engine(base, slots=7).run(asked)
    for one, events in zip(asked, together, strict=True):
        [alone] = engine(base, slots=1).run([one])
        assert text_of(alone) == text_of(events)
        assert alone[-1].reason == events[-1].reason  # type: ignore[union-attr]
    with_logprobs = engine(base).run(requests(only, logprobs=0))
    for marked, events in zip(with_logprobs, together, strict=True):
        assert text_of(marked) == text_of(events)
        entries = [entry for e in marked if isinstance(e, Text) for entry in e.logprobs]
        assert len(entries) == marked[-1].completion_tokens  # type: ignore[union-attr]


@each_form
def test_what_is_certain_of_a_call_is_forced(base: Base, form: CallForm) -> None:
    """All up to the value of the only tool's first argument."""
    one = {"weather": {**PLACE, "required": ["city", "days"]}}
    constraints = Constraints(base.tokenizer, base.stop_tokens)
    matcher = constraints.matcher(constraint(form, only=True, tools=one))
    tokens, rest = constraints.forced(matcher)
    text = base.tokenizer.decode([*tokens, *rest])
    assert text == f'{form.before}weather{form.between}{{"city": "'
    nothing = constraints.matcher(constraint(form, only=True, tools={"now": NONE}))
    tokens, rest = constraints.forced(nothing)
    assert base.tokenizer.decode(tokens) == call(form, "now", "{}")
    free = constraints.matcher(constraint(form, only=False, tools=one))
    assert constraints.forced(free) == ([], [])
    for token in base.tokenizer.encode(form.mark):
        free.consume(token)
    tokens, rest = constraints.forced(free)
    assert form.mark + base.tokenizer.decode([*tokens, *rest]) == text


@pytest.mark.parametrize("only", [True, False])
@pytest.mark.parametrize(
    ("slots", "step_tokens", "blocks"), [(1, 64, 64), (8, 64, 12), (6, 9, 512)]
)
def test_the_same_behind_drafts_in_chunks_and_after_making_room(
    base: Base,
    only: bool,
    slots: int,
    step_tokens: int,
    blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = Answers(base, {}, requests(only))
    monkeypatch.setattr(EngineSettings, "blocks", lambda *_: blocks)
    own = speculating(base, {}, slots=slots, step_tokens=step_tokens, speculate=True)
    assert [plain(each) for each in with_oracle(own, answers).run(answers.requests)] == (
        answers.events
    )
    stats = own.stats()
    assert stats.accepted_tokens > 50
    assert (stats.forced_tokens > 100) == only
    assert (stats.preemptions > 0) == (blocks == 12)
