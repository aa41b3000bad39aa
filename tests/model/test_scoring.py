"""Log-probabilities of given tokens: the network's own, in any chunk and any company."""

from dataclasses import replace

import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import Base
from model.engine.engine import Engine
from model.engine.request import Event, Failed, Generate, Request, Score, Scored
from model.engine.settings import EngineSettings
from model.errors import ContextLengthError, UsageError
from tests.model.engines import exact_base, prompt, random_base

CONTEXT = 128


@pytest.fixture(scope="module")
def base() -> Base:
    return random_base(CONTEXT)


def engine(base: Base, **settings: int) -> Engine:
    return Engine(base, {}, EngineSettings(**settings), deliver=lambda events: None)


def scored(events: list[Event]) -> Scored:
    [event] = events
    assert isinstance(event, Scored)
    return event


def test_they_are_those_of_the_plain_network(base: Base) -> None:
    tokens = prompt(7)
    found = scored(engine(base).run([Request("a", tokens, Score(3))])[0])
    with torch.inference_mode():
        logits = base.model.logits(base.model(torch.tensor([tokens])))[0]
    expected = torch.log_softmax(logits.double(), dim=-1)
    assert len(found.logprobs) == len(found.ranks) == len(tokens) - 1
    for place, (value, rank) in enumerate(zip(found.logprobs, found.ranks, strict=True)):
        row = expected[place]
        assert value.token == tokens[place + 1]
        assert value.logprob == pytest.approx(float(row[value.token]), abs=1e-4)
        assert rank == 1 + int((row > row[value.token]).sum())
        top = torch.topk(row, 3)
        assert [token for token, _, _ in value.top] == top.indices.tolist()
        assert [p for _, _, p in value.top] == pytest.approx(top.values.tolist(), abs=1e-4)
    assert found.prompt_tokens == len(tokens)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_no_bit_of_them_depends_on_chunks_or_company(dtype: torch.dtype | None) -> None:
    base = exact_base(Architecture(257, CONTEXT, n_layer=2, n_head=2, n_embd=64), dtype)
    texts = [tuple((i * 37 + t * 11) % 256 for t in range(5 + 17 * i)) for i in range(7)]
    requests = [Request(str(i), text, Score(2)) for i, text in enumerate(texts)]
    alone = [engine(base).run([each])[0] for each in requests]
    beside = [Request(f"g{i}", prompt(i), Generate(20), client="other") for i in range(4)]
    crowded = engine(base, slots=2, step_tokens=8).run([*requests, *beside])

    def numbers(events: list[Event]) -> object:
        return replace(scored(events), timings=None)  # type: ignore[arg-type]

    assert [numbers(e) for e in alone] == [numbers(e) for e in crowded[: len(requests)]]


def test_a_beginning_in_the_cache_is_computed_again(base: Base) -> None:
    own, tokens = engine(base), tuple(range(60))
    first = scored(own.run([Request("a", tokens, Score())])[0])
    second = scored(own.run([Request("b", tokens, Score())])[0])
    assert len(second.logprobs) == 59
    assert [v.logprob for v in first.logprobs] == pytest.approx(
        [v.logprob for v in second.logprobs]
    )


def test_one_token_has_none_and_a_full_context_has_all(base: Base) -> None:
    own = engine(base)
    assert scored(own.run([Request("a", (5,), Score())])[0]).logprobs == ()
    full = Request("b", tuple(i % 256 for i in range(CONTEXT)), Score())
    assert len(scored(own.run([full])[0]).logprobs) == CONTEXT - 1
    with pytest.raises(ContextLengthError):
        own.submit(Request("c", (1,) * (CONTEXT + 1), Score()))
    with pytest.raises(UsageError, match="top is -1"):
        own.submit(Request("d", (1,), Score(-1)))


def test_a_network_without_usable_logits_fails_that_text_alone(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = engine(base)
    logits = base.model.logits

    def spoilt(hidden: torch.Tensor) -> torch.Tensor:
        found = logits(hidden)
        return torch.full_like(found, float("nan")) if len(hidden) == 12 else found

    monkeypatch.setattr(base.model, "logits", spoilt)
    bad, good = own.run([Request("a", (1,) * 13, Score()), Request("b", (2,) * 9, Score())])
    assert isinstance(bad[-1], Failed)
    assert bad[-1].reason == "internal"
    assert len(scored(good).logprobs) == 8
