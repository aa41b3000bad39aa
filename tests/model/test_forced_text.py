"""What a constraint leaves no choice about is taken without a draw, and nobody can tell when.

The answers are the same alone, in any batch, in chunks, after making room, with shared prefixes and
behind drafts, which an oracle makes that knows them.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from model.checkpoint import Base
from model.cpu import library
from model.engine.constraints import Constraints
from model.engine.prompt_budget import PromptBudget
from model.engine.request import (
    Constraint,
    Embed,
    Embedded,
    Event,
    Finished,
    Generate,
    Request,
    Text,
)
from model.engine.settings import EngineSettings
from model.sampling import SamplingSettings
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from tests.model.engines import exact_base, text_of
from tests.model.test_determinism import GPT2
from tests.model.test_speculation_engine import Answers, end_of, engine, plain, with_oracle

NAMES = ("name", "street", "id", "x", "né", "it's", "a  b", "order_number")
MERGES = (
    '{"',
    '":',
    '",',
    '"}',
    ' "',
    '":"',
    "na",
    "me",
    "name",
    "st",
    "re",
    "et",
    "stre",
    "street",
)
MERGES = (*MERGES, "or", "er", "de", " {", "é", "'s", " 1", "12", "00", "ye", "es", "yes", " no")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    ranks = {bytes([i]): i for i in range(256)}
    ranks |= {merge.encode(): 256 + at for at, merge in enumerate(MERGES)}
    return Tokenizer(ranks, PATTERN, {END_OF_TEXT: len(ranks)})


@pytest.fixture(scope="module")
def base(tokenizer: Tokenizer) -> Base:
    if library.load() is None:
        pytest.skip("the C kernels are not compiled: a row's bits depend on its batch")
    config = replace(GPT2, vocab_size=tokenizer.vocab_size, context_length=512)
    return exact_base(config, None, tokenizer)


def random_schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    kind = draw.choice(("object", "object", "array", "string", "integer", "enum", "const"))
    if kind == "object" and depth < 2:
        names = draw.sample(NAMES, draw.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: random_schema(draw, depth + 1) for name in names},
            "required": [name for name in names if draw.random() < 0.8],
            "additionalProperties": False,
        }
    if kind == "array" and depth < 2:
        most = draw.randint(0, 3)
        return {"type": "array", "items": random_schema(draw, depth + 1), "maxItems": most}
    if kind == "string":
        return {"type": "string", "maxLength": draw.randint(0, 6)}
    if kind == "integer":
        return {"type": "integer", "minimum": draw.randint(0, 9), "maximum": draw.randint(10, 200)}
    if kind == "enum":
        return {"enum": draw.sample(["yes", "yes no", "no", 12, 1200, None, True, "née"], 3)}
    return {"const": draw.choice(["street  1", 1200, {"name": ["yes", {"x": 12}]}, "é"])}


def random_constraint(draw: random.Random) -> Constraint:
    kind = draw.random()
    if kind < 0.6:
        return Constraint("json_schema", json.dumps(random_schema(draw)))
    if kind < 0.75:
        texts = ("yes yes no", "yes it's", "yes  no", "street 12", "né", "nè", 'it\'s {"name": 1}')
        return Constraint("choice", json.dumps(draw.sample(texts, draw.randint(1, 4))))
    regexes = (
        "((yes|no|12){1,9} street ){8,20}1200",
        "name: [a-c]{3}'s order",
        "(é|è)é{8} name",
        "x{70}[yz]",
    )
    return Constraint("regex", draw.choice(regexes))


def random_request(number: int) -> Request:
    draw = random.Random(number)
    shared = [(7 * t) % 256 for t in range(draw.choice((0, 16, 32)))]
    tokens = shared + [draw.randrange(256) for _ in range(draw.randint(1, 20))]
    sampling = SamplingSettings(
        temperature=draw.choice((0.0, 0.7, 1.5)),
        repetition_penalty=draw.choice((1.0, 1.3)),
        frequency_penalty=draw.choice((0.0, 0.4)),
        seed=number,
    )
    want = Generate(
        draw.choice((3, 20, 150, 150)),
        sampling,
        stop=tuple(draw.sample(["ame", '": ', "12", "yes n", "é"], 1)) * (draw.random() < 0.2),
        logprobs=draw.choice((None, None, None, 1)),
        stream=draw.random() < 0.7,
        constraint=random_constraint(draw),
    )
    return Request(str(number), tuple(tokens), want)


@pytest.fixture(scope="module")
def answers(base: Base) -> Answers:
    return Answers(base, {}, [random_request(number) for number in range(70)])


def test_every_whole_text_is_of_its_form(answers: Answers) -> None:
    wholes = forced = 0
    for request, events in zip(answers.requests, answers.events, strict=True):
        assert isinstance(request.want, Generate)
        assert request.want.constraint is not None
        reason, _, length, number = events[-1]  # type: ignore[misc]
        forced += number
        assert 0 <= number <= length <= request.want.max_new_tokens
        if reason == "length" or request.want.stop:
            continue
        text = "".join(event.text for event in events if isinstance(event, Text))
        kind, value = request.want.constraint.kind, request.want.constraint.value
        if kind == "json_schema":
            jsonschema.validate(json.loads(text), json.loads(value))
        elif kind == "choice":
            assert text in json.loads(value)
        else:
            assert re.fullmatch(value, text)
        wholes += 1
    assert wholes > 30
    assert forced > 300


@pytest.mark.parametrize(
    ("slots", "step_tokens", "blocks", "reuse"),
    [(1, 64, 64, True), (8, 64, 12, True), (6, 9, 512, False)],
)
def test_the_same_in_every_batch_and_behind_drafts(
    base: Base,
    answers: Answers,
    slots: int,
    step_tokens: int,
    blocks: int,
    reuse: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EngineSettings, "blocks", lambda *_: blocks)
    # How fast the machine is must not decide how much a step has left for drafts.
    monkeypatch.setattr(PromptBudget, "observe", lambda *_: None)
    bounds = {"slots": slots, "step_tokens": step_tokens, "reuse_prefixes": reuse}
    for drafts in (False, True):
        own = engine(base, {}, speculate=drafts, **bounds)
        events = (with_oracle(own, answers) if drafts else own).run(answers.requests)
        assert [plain(each) for each in events] == answers.events
        ends, stats = [end_of(each) for each in events], own.stats()
        assert (stats.preemptions > 0) == (blocks == 12)
        assert stats.free_blocks == stats.blocks
        assert stats.accepted_tokens == sum(end.accepted_tokens for end in ends)
        assert (stats.accepted_tokens > 50) == drafts
        assert stats.forced_tokens == sum(end.forced_tokens for end in ends)
        assert stats.generated_tokens == sum(end.completion_tokens for end in ends)
        assert all(end.cached_tokens <= end.prompt_tokens for end in ends)


def test_whoever_wants_log_probabilities_gets_the_same_tokens(base: Base, answers: Answers) -> None:
    requests = [replace(each, want=replace(each.want, logprobs=0)) for each in answers.requests]
    asked = Answers(base, {}, requests)
    assert sorted(asked.sequences) == sorted(answers.sequences)
    for events in asked.events:
        entries = [entry for event in events if isinstance(event, Text) for entry in event.logprobs]
        _, _, length, forced = events[-1]  # type: ignore[misc]
        assert len(entries) == length
        assert sum(entry.forced for entry in entries) == forced
        assert all(entry.logprob <= 0 for entry in entries)


def walks(constraints: Constraints, seed: int) -> Iterator[tuple[bytes, list[int]]]:
    """The forced stretches of a random text: each as its text and all behind it, and its tokens."""
    draw = random.Random(seed)
    tokenizer, matcher = constraints._tokenizer, constraints.matcher(random_constraint(draw))
    tokens: list[int] = []
    stretches: list[tuple[int, list[int]]] = []
    while not matcher.complete and len(tokens) < 100:
        [allowed], failed = constraints._allowed([matcher])
        assert not failed
        taken, _ = constraints.forced(matcher)
        if taken:
            stretches.append((len(tokens), taken))
        else:
            taken = [draw.choice(allowed.nonzero()[0].tolist())]
        if taken == [tokenizer.end_token]:
            break
        for token in taken:
            matcher.consume(token)
        tokens += taken
    if matcher.complete or taken == [tokenizer.end_token]:
        for start, stretch in stretches:
            yield b"".join(map(tokenizer.token_bytes, tokens[start:])), stretch


def test_a_stretch_is_the_tokenizers_own_tokens(tokenizer: Tokenizer) -> None:
    """Encoded with what came behind it, its text begins with its tokens."""
    constraints = Constraints(tokenizer, (tokenizer.end_token,))
    lengths = []
    for seed in range(150):
        for text, stretch in walks(constraints, seed):
            assert tokenizer.encode(text.decode())[: len(stretch)] == stretch
            lengths.append(len(stretch))
    assert len(lengths) > 150
    assert max(lengths) > 9


def forced_text(tokenizer: Tokenizer, constraint: Constraint, before: str = "") -> str:
    constraints = Constraints(tokenizer, (tokenizer.end_token,))
    matcher = constraints.matcher(constraint)
    for token in tokenizer.encode(before):
        matcher.consume(token)
    tokens, rest = constraints.forced(matcher)
    assert constraints.forced(matcher) == (tokens, rest)  # asking changes nothing
    text = tokenizer.decode(tokens + rest)
    assert len(text) >= 2048 or matcher.inner.compute_ff_bytes().decode("utf-8", "ignore") == text
    return tokenizer.decode(tokens)


def test_where_a_stretch_ends(tokenizer: Tokenizer) -> None:
    def schema(value: dict[str, Any]) -> Constraint:
        properties, required = {"name": value, "x": value}, ["name", "x"]
        whole = {"type": "object", "properties": properties, "required": required}
        return Constraint("json_schema", json.dumps({**whole, "additionalProperties": False}))

    number, text = schema({"type": "integer", "minimum": 0}), schema({"type": "string"})
    # What a blank or an opening quote stands in could begin the value, too.
    assert forced_text(tokenizer, number) == '{"name":'
    assert forced_text(tokenizer, text) == '{"name":'
    assert forced_text(tokenizer, text, '{"name": "a') == ""
    assert forced_text(tokenizer, text, '{"name": "a"') == ', "x":'
    assert forced_text(tokenizer, Constraint("choice", '["yes"]')) == "yes"
    assert forced_text(tokenizer, Constraint("choice", '["yes", "ye "]')) == ""
    assert forced_text(tokenizer, Constraint("choice", '["xnow", "xno"]')) == "xno"
    assert forced_text(tokenizer, Constraint("choice", '["xé", "xè"]')) == "x"
    long = "x" * 5000
    assert len(forced_text(tokenizer, Constraint("choice", json.dumps([long])))) == 2048


def answer(base: Base, want: Generate, **settings: Any) -> tuple[list[Event], Finished, int]:
    """Of one request with 16 tokens, and in how many steps."""
    own = engine(base, {}, **settings)
    [events] = own.run([Request("1", tuple(range(16)), want)])
    return events, end_of(events), own.stats().steps


def test_a_text_that_is_forced_as_a_whole_needs_the_prompts_step(
    base: Base, tokenizer: Tokenizer
) -> None:
    text = 'yes {"name": "street 1200"}'
    tokens = tokenizer.encode(text)
    want = Generate(
        99, SamplingSettings(temperature=0), constraint=Constraint("choice", json.dumps([text]))
    )
    for asked, said, length, reason in (
        (want, text, len(tokens), "stop"),
        (replace(want, max_new_tokens=4), tokenizer.decode(tokens[:4]), 4, "length"),
        (replace(want, stop=("reet",)), text[: text.index("reet")], None, "stop"),
        (replace(want, max_new_tokens=len(tokens)), text, len(tokens), "stop"),
    ):
        events, end, steps = answer(base, asked)
        assert (text_of(events), end.reason, steps) == (said, reason, 1)
        assert end.forced_tokens == end.completion_tokens == (length or end.completion_tokens)
        marked, end, steps = answer(base, replace(asked, logprobs=0), speculate=False)
        assert (text_of(marked), end.reason) == (said, reason)
        assert steps == end.forced_tokens == end.completion_tokens == (length or steps)
        plain_events, end, steps = answer(base, asked, force_text=False, speculate=False)
        assert text_of(plain_events).startswith(said[:1])
        assert (steps, end.forced_tokens) == (end.completion_tokens, 0)


def test_what_is_forced_behind_a_prompt_counts_as_no_part_of_it(base: Base) -> None:
    constraint = Constraint("regex", "(street ){20}[a-z]{3}")
    request = Request("1", tuple(range(16)), Generate(200, constraint=constraint))
    own = engine(base, {})
    ends = [end_of(own.run([request])[0]) for _ in range(2)]
    assert [end.cached_tokens for end in ends] == [0, 16]
    assert ends[1].prompt_tokens == 16
    assert own.stats().cached_tokens == 16


def test_what_is_not_generated_has_nothing_forced(
    base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    own = engine(base, {})
    [[event]] = own.run([Request("1", tuple(range(16)), Embed())])
    assert isinstance(event, Embedded)
    assert not caplog.records
