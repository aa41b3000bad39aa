"""Constrained generation: every finished text is of its form, and nobody else notices."""

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import Adapter, Base
from model.engine.constraints import Constraints
from model.engine.engine import Engine
from model.engine.grammar_check import compile_here
from model.engine.grammars import ConstraintError
from model.engine.request import Constraint, Event, Failed, Finished, Generate, Request, Text
from model.engine.settings import EngineSettings
from model.errors import PenwrightError, UsageError
from model.lora import LoRA, LoRASettings
from model.sampling import SamplingSettings
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from model.transformer import Transformer

CONTEXT = 256
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "né", "🎉"]}, "maxItems": 3},
        "more": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CHOICES = ["yes", "no", "not sure", 'a "quote" \\ and\nline', "né🎉", "nul\0", "del\x7f"]
REGEX = r"(?:[a-c]{2,5}|é+){1,3}-[0-9]{4}|end"


@pytest.fixture(scope="module")
def base() -> Base:
    """A random network over bytes and some merges, whose logits differ clearly."""
    ranks = {bytes([i]): i for i in range(256)}
    merges = [m.encode() for m in ('{"', '":', '", "', "name", "ye", "é", "00", "]}", "-1")]
    merges.append("🎉".encode()[:3])
    ranks |= {merge: 256 + i for i, merge in enumerate(merges)}
    tokenizer = Tokenizer(ranks, PATTERN, {END_OF_TEXT: len(ranks), "<|other|>": len(ranks) + 1})
    # More rows than tokens: such a network's last rows are never drawn.
    config = Architecture(288, CONTEXT, n_layer=1, n_head=2, n_embd=32)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    end = (tokenizer.end_token,)
    return Base(Path(), "", "generate", config, model.eval(), tokenizer, end, None, {})


def engine(base: Base, adapters: dict[str, Adapter] | None = None, **bounds: Any) -> Engine:
    settings = EngineSettings(**{"slots": 8, "step_tokens": 32, **bounds})
    return Engine(base, adapters or {}, settings, deliver=lambda events: None)


def json_schema(schema: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(schema))


def choice(texts: Sequence[str]) -> Constraint:
    return Constraint("choice", json.dumps(texts))


def request(name: str, constraint: Constraint | None, seed: int = 0, **more: Any) -> Request:
    sampling = SamplingSettings(
        temperature=more.pop("temperature", 5.0),
        seed=seed,
        frequency_penalty=more.pop("frequency_penalty", 0.0),
    )
    adapter = more.pop("adapter", None)
    new = more.pop("max_new_tokens", 200)
    want = Generate(new, sampling, constraint=constraint, **more)
    return Request(name, (3, 7, seed % 256), want, adapter)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def end_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


def test_every_text_is_of_its_form(base: Base) -> None:
    """Whatever the seed, at a temperature at which the network alone writes noise."""
    constraints = [json_schema(PERSON), choice(CHOICES), Constraint("regex", REGEX)]
    requests = [request(str(i), constraints[i % 3], seed=i) for i in range(60)]
    seen: set[str] = set()
    for i, events in enumerate(engine(base).run(requests)):
        text, end = text_of(events), end_of(events)
        assert end.reason in ("stop", "eos")
        seen.add(text)
        if i % 3 == 0:
            jsonschema.validate(json.loads(text), PERSON)
        elif i % 3 == 1:
            assert text in CHOICES
        else:
            assert re.fullmatch(REGEX, text)
    assert len(seen) > 25
    assert len(seen & set(CHOICES)) >= 4


def test_a_batch_gives_what_each_request_gives_alone(base: Base) -> None:
    constraints = [None, json_schema(PERSON), None, Constraint("regex", REGEX), choice(CHOICES)]
    requests = [
        request(str(i), constraints[i % 5], seed=i, temperature=1.5, max_new_tokens=60)
        for i in range(20)
    ]
    together = engine(base, slots=7).run(requests)
    for one, events in zip(requests, together, strict=True):
        [alone] = engine(base, slots=1).run([one])
        assert text_of(events) == text_of(alone)
        assert end_of(events).reason == end_of(alone).reason


def test_an_adapter_is_constrained_as_well(base: Base) -> None:
    generator = torch.Generator().manual_seed(1)
    lora = LoRA(base.config, LoRASettings(rank=2))
    lora.init_weights(generator)
    with torch.no_grad():
        for b in lora.b.values():
            b.normal_(0, 0.3, generator=generator)
    adapters = {"other": Adapter(Path(), "", "instruct", lora.eval(), None, {})}
    requests = [
        request(f"{i}{adapter}", json_schema(PERSON), seed=i, adapter=adapter)
        for i in range(4)
        for adapter in ("other", None)
    ]
    for events in engine(base, adapters).run(requests):
        jsonschema.validate(json.loads(text_of(events)), PERSON)


def test_a_preempted_text_goes_on_where_it_was(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = json_schema({"type": "array", "items": {"enum": [1, 22, 333]}, "minItems": 40})
    requests = [request(str(i), constraint, seed=i, temperature=1.0) for i in range(4)]
    roomy = engine(base).run(requests)
    monkeypatch.setattr(EngineSettings, "blocks", lambda self, config, dtype: 22)
    narrow = engine(base)
    assert [text_of(events) for events in narrow.run(requests)] == [text_of(e) for e in roomy]
    assert narrow.stats().preemptions
    assert all(len(json.loads(text_of(events))) >= 40 for events in roomy)


def test_the_end_token_can_come_exactly_when_the_text_is_complete(base: Base) -> None:
    """An end token that the network always wants has to wait; then it comes at once."""
    wanted = base.tokenizer.end_token
    eager = Transformer(base.config).eval()
    eager.load_state_dict(base.model.state_dict())
    with torch.no_grad():
        eager.norm.bias.copy_(100 * eager.embedding.weight[wanted])
    changed = Base(Path(), "", "generate", base.config, eager, base.tokenizer, (wanted,), None, {})
    cases = [
        (Constraint("regex", "[0-9]{3,9}"), 3, "eos"),
        (Constraint("regex", "[0-9]{3}"), 3, "stop"),
        (choice(["ab", "abc"]), 2, "eos"),
        (json_schema({"const": [1]}), 3, "stop"),
    ]
    requests = [request(str(i), case[0], temperature=0.0) for i, case in enumerate(cases)]
    requests.append(request("free", None, temperature=0.0))
    *answers, free = engine(changed).run(requests)
    for events, (_, length, reason) in zip(answers, cases, strict=True):
        assert (len(text_of(events)), end_of(events).reason) == (length, reason)
    assert (text_of(free), end_of(free).reason) == ("", "eos")


def test_a_text_that_is_cut_says_so(base: Base) -> None:
    long = json_schema({"type": "string", "minLength": 100})
    [cut, stopped] = engine(base).run(
        [
            request("cut", long, max_new_tokens=9),
            request("stopped", Constraint("regex", "[ab]{20}c{20}"), stop=("cc",)),
        ]
    )
    assert (end_of(cut).reason, end_of(cut).completion_tokens) == ("length", 9)
    assert text_of(cut).startswith('"')
    assert re.fullmatch("[ab]{20}", text_of(stopped))
    assert end_of(stopped).reason == "stop"


def test_logprobs_are_those_of_the_network(base: Base) -> None:
    one = request("1", choice(["zzz"]), logprobs=2)
    [events] = engine(base).run([one])
    entries = [entry for e in events if isinstance(e, Text) for entry in e.logprobs]
    tokens = list(one.tokens)
    for entry in entries:
        with torch.no_grad():
            logits = base.model.logits(base.model(torch.tensor([tokens]))[0, -1])
        expected = torch.log_softmax(logits[: base.tokenizer.vocab_size], -1)
        assert entry.logprob == pytest.approx(float(expected[entry.token]), abs=1e-4)
        assert entry.top[0][0] == int(expected.argmax())
        tokens.append(entry.token)
    assert len(entries) == 3


REFUSED = [
    (Constraint("regex", "(a"), "unclosed group"),
    (Constraint("regex", r"(?=a)b"), "look-around"),
    (Constraint("regex", r"(a)\1"), "backreferences"),
    (Constraint("regex", r"[^\s\S]"), "no text can satisfy it"),
    (Constraint("regex", "a" * 2049), "2049 characters; at most 2048"),
    (Constraint("regex", "\ud800"), "surrogate"),
    (Constraint("regex", "(" * 1000 + "a" + ")" * 1000), "nest"),
    (Constraint("json_schema", "{"), "no usable JSON"),
    (Constraint("json_schema", "[1]"), "must be a JSON object"),
    (Constraint("json_schema", '{"type": "' + "\ud800" + '"}'), "surrogate"),
    (Constraint("json_schema", "[" * 30_000), "no usable JSON"),
    (json_schema({"type": "text"}), "Invalid type: text"),
    (json_schema({"not": {"type": "null"}}), '"not"'),
    (json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
    (json_schema({"$ref": "#/$defs/gone"}), "gone"),
    (json_schema({"$ref": "http://127.0.0.1/schema"}), "127.0.0.1"),
    (json_schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
    (json_schema({"enum": []}), "empty"),
    (json_schema({"$ref": "#"}), "no text can satisfy it"),
    (json_schema({"x-guidance": {"lenient": True}, "not": {}}), '"not"'),
    (json_schema({"type": "number", "exclusiveMinimum": 1, "maximum": 1}), "is equal to maximum"),
    (json_schema({"description": "x" * 40_000}), "at most 32768"),
    (choice([]), "one text or more"),
    (choice(["a", ""]), "one text or more"),
    (Constraint("choice", "[1]"), "one text or more"),
    (Constraint("choice", '"ab"'), "one text or more"),
]


def test_what_cannot_be_used_is_refused_with_the_reason(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None of these does harm, and thirty processes take a while.
    monkeypatch.setattr("model.engine.constraints.problem_of", compile_here)
    own = engine(base)
    for constraint, said in REFUSED:
        for _ in range(2):  # the second time it is known
            with pytest.raises(ConstraintError, match=re.escape(said)) as caught:
                own.prepare(constraint)
            assert len(str(caught.value)) < 400
            assert "\n" not in str(caught.value)


def nested(levels: int) -> dict[str, Any]:
    """References of references: their compilation recurses."""
    defs: dict[str, Any] = {
        f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(levels)
    }
    defs[f"d{levels}"] = {"type": "null"}
    return {"$defs": defs, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        nested(300),
        {"type": "integer", "multipleOf": 99_999_989},
        {"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(10, 40)]},
    ],
    ids=["stack", "memory", "time"],
)
def test_what_would_end_the_process_is_refused(base: Base, schema: Any) -> None:
    """Compiled here, these overflow the stack, take all memory, or go on for hours."""
    with pytest.raises(ConstraintError, match=r"nested too deeply"):
        engine(base).prepare(json_schema(schema))


@pytest.fixture
def bare_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children have a Python without packages of its own."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.usefixtures("bare_python")
def test_packages_that_are_found_through_pythonpath_are_found(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    engine(base).prepare(Constraint("regex", "a+"))
    with pytest.raises(ConstraintError, match="unclosed group"):
        engine(base).prepare(Constraint("regex", "(a"))


@pytest.mark.usefixtures("bare_python")
def test_a_check_that_does_not_run_is_not_the_fault_of_the_constraint(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    own, good = engine(base), Constraint("regex", "a+")
    with pytest.raises(PenwrightError, match="No module named 'llguidance'") as caught:
        own.prepare(good)
    assert not isinstance(caught.value, UsageError)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(PenwrightError, match=r"cannot be checked: .*No such file"):
        own.prepare(good)
    monkeypatch.undo()
    own.prepare(good)  # nothing of it was remembered


def test_a_choice_can_have_any_character(base: Base) -> None:
    others = "\u2028\u2029\u200b\u200d\u0300\ufeff\ufffe\ud7ff\ue000🎉\U0010ffff"
    texts = [f"a{character}b" for character in [*map(chr, range(256)), *others]]
    constraints = Constraints(base.tokenizer, base.stop_tokens)
    for text in texts:
        matcher = constraints.matcher(choice([text, "another"]))
        for byte in text.encode():
            matcher.consume(byte)
        assert matcher.complete


def test_a_dead_end_on_the_way_is_told_as_one(base: Base) -> None:
    """Not as a constraint that no text can satisfy: there were several."""
    one = {"type": "object", "properties": {"x": {"type": "null"}}}
    other = {"patternProperties": {"^x$": True}, "additionalProperties": False}
    constraints = Constraints(base.tokenizer, base.stop_tokens)
    matcher = constraints.matcher(json_schema({"allOf": [one, other]}))
    for byte in b'{"x": null, ':
        matcher.consume(byte)
    reasons = constraints.mask([(0, matcher)], torch.zeros(1, base.tokenizer.vocab_size))
    assert reasons == {0: "nothing that it allows can follow"}


def test_a_constraint_that_becomes_too_complex_fails_alone(base: Base) -> None:
    hostile = Constraint("regex", "(([a-z]{1,100}){1,100}){1,100}")
    own = engine(base)
    own.prepare(hostile)
    bad, good, plain = own.run(
        [request("bad", hostile), request("good", choice(CHOICES)), request("plain", None)]
    )
    assert isinstance(bad[-1], Failed)
    assert bad[-1].reason == "constraint"
    assert "too many" in bad[-1].message
    assert text_of(good) in CHOICES
    assert end_of(plain)
    assert own.stats().free_blocks == own.stats().blocks


def test_states_of_one_text_do_not_count_against_the_next(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's copies of a matcher share their states, and so the bound on them."""
    monkeypatch.setattr("model.engine.constraints.LIMITS", {"max_lexer_states": 200})
    many = Constraint("regex", r"[ab]*a[ab]{40}")
    own = engine(base)
    for seed in range(10):
        if seed % 2:
            own.prepare(many)
        [events] = own.run([request(str(seed), many, seed=seed, max_new_tokens=60)])
        assert end_of(events)


def test_preparing_from_several_threads(base: Base) -> None:
    own = engine(base)
    errors: list[BaseException] = []

    def prepare(number: int) -> None:
        chooser = random.Random(number)
        try:
            for _ in range(10):
                own.prepare(choice([chooser.choice("abcdef")]), count=chooser.randint(1, 9))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    answers = own.run([request(str(i), choice(["abcdef"[i % 6]]), seed=i) for i in range(30)])
    for thread in threads:
        thread.join()
    assert not errors
    assert [text_of(events) for events in answers] == ["abcdef"[i % 6] for i in range(30)]


def test_a_constraint_says_where_a_text_ends(base: Base) -> None:
    with pytest.raises(UsageError, match="ignore_eos"):
        engine(base).run([request("1", choice(["a"]), ignore_eos=True)])


def test_a_text_that_cannot_go_on_leaves_its_prompt_in_the_cache(base: Base) -> None:
    """Only what its constraint asked for was wrong, not what the network computed."""
    hostile = Constraint("regex", "(([a-z]{1,100}){1,100}){1,100}")
    own = engine(base)
    prompt = tuple(range(48))
    for constraint, cached in ((None, 0), (hostile, 32), (None, 32)):
        [events] = own.run([replace(request("1", constraint), tokens=prompt)])
        if isinstance(events[-1], Failed):
            assert events[-1].reason == "constraint"
        else:
            assert end_of(events).cached_tokens == cached


UNCONSTRAINED = """
import sys
sys.modules["llguidance"] = None  # whoever imports it gets an ImportError

from model.engine.engine import Engine
from model.engine.request import Generate, Request
from model.engine.settings import EngineSettings
from tests.model.engines import random_base

engine = Engine(random_base(64), {}, EngineSettings(slots=2), deliver=lambda events: None)
[events] = engine.run([Request("1", (1, 2), Generate(3, ignore_eos=True))])
print(events[-1].reason)
"""


def test_without_a_constraint_the_grammar_library_is_not_needed() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", UNCONSTRAINED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert (done.stdout, done.returncode) == ("length\n", 0), done.stderr
