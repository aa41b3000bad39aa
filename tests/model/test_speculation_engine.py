"""With drafts, right and wrong ones, every request gets what it gets without: each event, each bit.

Drafts come from an oracle here that knows the answers, and spoils some of its tokens: so that
drafts hold, fail in the middle and fail at once, whatever a request asks for.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.checkpoint import Adapter, Base
from model.cpu import library
from model.engine.engine import Engine
from model.engine.prompt_budget import PromptBudget
from model.engine.request import (
    Classified,
    Classify,
    Constraint,
    Embed,
    Embedded,
    Event,
    Finished,
    Generate,
    Request,
)
from model.engine.settings import EngineSettings
from model.engine.speculation import LONGEST, Lookup, Speculation
from model.sampling import SamplingSettings
from tests.model.engines import exact_adapters, exact_base
from tests.model.test_determinism import GPT2, LLAMA

pytestmark = pytest.mark.skipif(
    library.load() is None, reason="the C kernels are not compiled: there is no speculation"
)

NETWORKS = {
    "int8": (GPT2, None),
    "llama, int8": (replace(LLAMA, head_dim=64), None),
    "llama, bf16 in tiles": (LLAMA, torch.bfloat16),
}
CONSTRAINTS = (
    Constraint("regex", "(ab|cd){3,30}-[0-9]{4,8}"),
    Constraint("regex", "x{1,20}|[a-f ]{10,40}"),
    Constraint("json_schema", '{"type": "array", "items": {"enum": ["a", "bc"]}, "maxItems": 9}'),
    Constraint("choice", '["yes yes yes yes yes", "no no no no no no"]'),
)


@pytest.fixture(scope="module", params=NETWORKS)
def base(request: pytest.FixtureRequest) -> Base:
    return exact_base(*NETWORKS[request.param])


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    return exact_adapters(base)


def random_request(number: int) -> Request:
    """Of any kind; prompts repeat themselves, and some begin like others."""
    draw = random.Random(number)
    motif = [draw.randrange(256) for _ in range(draw.randint(1, 12))]
    tokens = [(7 * t) % 256 for t in range(40)] if draw.random() < 0.3 else []
    for _ in range(draw.randint(1, 5)):
        tokens += [*motif, draw.randrange(256)]
    adapter = draw.choice((None, None, "spam", "other"))
    if draw.random() < 0.1:
        return Request(str(number), tuple(tokens), Classify() if adapter else Embed(), adapter)
    sampling = SamplingSettings(
        temperature=draw.choice((0.0, 0.0, 0.3, 0.7, 1.0)),
        top_k=draw.choice((None, 3, 20)),
        top_p=draw.choice((1.0, 0.9)),
        min_p=draw.choice((0.0, 0.05)),
        repetition_penalty=draw.choice((1.0, 1.3)),
        presence_penalty=draw.choice((0.0, 0.5)),
        frequency_penalty=draw.choice((0.0, -0.3)),
        logit_bias=((draw.randrange(257), 4.0), (256, -1.0)) if draw.random() < 0.3 else (),
        seed=number,
    )
    stop = tuple(draw.sample(["e", "t", "ab", "\x00", "7", "Q"], 2))
    stop = stop if draw.random() < 0.3 else ()
    constraint = draw.choice(CONSTRAINTS) if draw.random() < 0.25 else None
    want = Generate(
        draw.randint(1, 80),
        sampling,
        stop=stop,
        ignore_eos=constraint is None and draw.random() < 0.5,
        logprobs=draw.choice((None, 0, 2)),
        stream=draw.random() < 0.7,
        constraint=constraint,
    )
    return Request(str(number), tuple(tokens), want, adapter)


def plain(events: Sequence[Event]) -> list[Event | tuple[Any, ...]]:
    """What must be equal: all but times, and what depends on when others come and go."""
    result: list[Event | tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, Finished):
            counts = (event.prompt_tokens, event.completion_tokens, event.forced_tokens)
            result.append((event.reason, *counts))
        elif isinstance(event, Classified):
            result.append((event.logits, event.prompt_tokens))
        elif isinstance(event, Embedded):  # a sum over its chunks, whose bits depend on these
            result.append((len(event.values), event.prompt_tokens))
        else:
            result.append(event)
    return result


class Answers:
    """What requests get without speculation, and the tokens of their sequences."""

    def __init__(self, base: Base, adapters: dict[str, Adapter], requests: list[Request]) -> None:
        own = engine(base, adapters, speculate=False, slots=8)
        self.sequences: list[list[int]] = []
        remove = own._remove

        def keep(sequence: Any, **more: bool) -> None:
            self.sequences.append(sequence.tokens)
            remove(sequence, **more)

        own._remove = keep  # type: ignore[method-assign]
        events = own.run(requests)
        self.requests = requests
        self.events = [plain(each) for each in events]

    def after(self, tokens: Sequence[int]) -> list[int]:
        """What followed in a sequence that began so."""
        length = len(tokens)
        found = (s[length:] for s in self.sequences if len(s) > length and s[:length] == tokens)
        return next(found, [])


class Oracle(Speculation):
    """Drafts what will be drawn, with some mistakes."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers, self.draws = answers, random.Random(0)

    def draft(
        self, lookup: Lookup, tokens: Sequence[int], most: int, expected: Sequence[int] = ()
    ) -> list[int]:
        most = min(most, self._most_rows - self._rows, self.draws.choice((0, 1, 3, LONGEST, 40)))
        right = self.answers.after(list(tokens))
        chance = self.draws.choice((0.0, 0.1, 1.0))
        made = [
            self.draws.randrange(257) if self.draws.random() < chance or not right else token
            for token in (right or range(most))
        ][: max(most, 0)]
        self._rows += len(made)
        return made


@pytest.fixture(scope="module")
def answers(base: Base, adapters: dict[str, Adapter]) -> Answers:
    count = 100 if base.model.quantized else 30  # torch takes its time over tiles
    return Answers(base, adapters, [random_request(number) for number in range(count)])


def engine(base: Base, adapters: dict[str, Adapter], **bounds: Any) -> Engine:
    return Engine(base, adapters, EngineSettings(**bounds), deliver=lambda events: None)


def with_oracle(own: Engine, answers: Answers) -> Engine:
    own._speculation = own._scheduler.speculation = Oracle(answers)
    return own


@pytest.mark.parametrize(
    ("slots", "step_tokens", "blocks", "reuse"),
    [(1, 64, 64, True), (8, 64, 16, True), (8, 64, 16, False), (6, 9, 512, False)],
)
def test_with_an_oracle(
    base: Base,
    adapters: dict[str, Adapter],
    answers: Answers,
    slots: int,
    step_tokens: int,
    blocks: int,
    reuse: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EngineSettings, "blocks", lambda *_: blocks)
    bounds = {"slots": slots, "step_tokens": step_tokens, "reuse_prefixes": reuse}
    own = with_oracle(engine(base, adapters, **bounds), answers)
    events = own.run(answers.requests)
    assert [plain(each) for each in events] == answers.events
    check_counts(own, events)
    assert (own.stats().preemptions > 0) == (blocks == 16)


@pytest.mark.parametrize("blocks", [16, 512])
def test_with_its_own_drafts_while_requests_come_and_go(
    base: Base,
    adapters: dict[str, Adapter],
    answers: Answers,
    blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every draft that is found, of any length; some requests are cancelled on the way."""
    draws = random.Random(0)
    monkeypatch.setattr(EngineSettings, "blocks", lambda *_: blocks)
    monkeypatch.setattr(Lookup, "rests", False)
    monkeypatch.setattr(Speculation, "length", lambda self, chance, most: draws.randint(1, most))
    # How fast the machine is must not decide how much a step has left for drafts.
    monkeypatch.setattr(PromptBudget, "observe", lambda *_: None)
    own = engine(base, adapters, slots=6, step_tokens=48)
    events: dict[str, list[Event]] = defaultdict(list)
    coming, cancelled = list(answers.requests), set()
    while coming or own._sequences:
        for _ in range(min(draws.choice((0, 0, 1, 4)), len(coming))):
            own.submit(coming.pop())
        if own._sequences and draws.random() < 0.06:
            name = draws.choice(list(own._sequences))
            cancelled.add(name)
            own.cancel(name)
        own._run_errands(wait=False)
        for name, event in own._step():
            events[name].append(event)
    assert cancelled
    for request, wanted in zip(answers.requests, answers.events, strict=True):
        got = plain(events[request.id])
        assert got == wanted or (request.id in cancelled and got == wanted[: len(got)])
    stats = own.stats()
    assert 50 < stats.accepted_tokens < stats.drafted_tokens - 50
    assert stats.free_blocks == stats.blocks
    assert stats.preemptions > 0 or blocks > 16


def test_what_is_cached_is_what_was_drawn(
    base: Base, adapters: dict[str, Adapter], answers: Answers
) -> None:
    """Others find the same tokens in the cache as without drafts, and never those of a draft."""

    class Wrong(Speculation):
        def draft(
            self, lookup: Lookup, tokens: Sequence[int], most: int, expected: Sequence[int] = ()
        ) -> list[int]:
            return [9] * min(most, 20)

    own, without = engine(base, adapters), engine(base, adapters, speculate=False)
    own._speculation = own._scheduler.speculation = Wrong()
    found = 0
    for request in answers.requests[:8]:
        if not isinstance(request.want, Generate):
            continue
        length = len(request.tokens)
        whole = next(s for s in answers.sequences if s[:length] == [*request.tokens])
        follow = [whole[: length + more] + [9] * 20 for more in (1, 2, len(whole))]
        for tokens in (request.tokens, *follow):
            want = replace(request.want, max_new_tokens=20)
            asked = replace(request, tokens=tuple(tokens), want=want)
            [got], [wanted] = own.run([asked]), without.run([asked])
            assert plain(got) == plain(wanted)
            assert end_of(got).cached_tokens == end_of(wanted).cached_tokens
            found += end_of(got).cached_tokens
    assert found > 200
    assert own.stats().drafted_tokens > 200


def end_of(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


def check_counts(own: Engine, events: list[list[Event]]) -> None:
    """Some drafts held and others did not, and nothing of them is left."""
    ends = [each[-1] for each in events if isinstance(each[-1], Finished)]
    stats = own.stats()
    assert stats.drafted_tokens == sum(end.drafted_tokens for end in ends)
    assert stats.accepted_tokens == sum(end.accepted_tokens for end in ends)
    assert 50 < stats.accepted_tokens < stats.drafted_tokens - 50
    assert stats.generated_tokens == sum(end.completion_tokens for end in ends)
    assert stats.free_blocks == stats.blocks
