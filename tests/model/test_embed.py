"""Embeddings from the engine: always the mean over the network's own hidden states."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import Adapter, Base
from model.classifier import ClassifierHead, Labels
from model.engine.engine import Engine
from model.engine.request import (
    Classify,
    Embed,
    Embedded,
    Event,
    Failed,
    Finished,
    Generate,
    Request,
    Text,
)
from model.engine.settings import EngineSettings
from model.errors import ContextLengthError
from model.lora import LoRA, LoRASettings
from model.sampling import SamplingSettings
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from model.transformer import Transformer

CONTEXT = 96
NEAR = 2e-5


@pytest.fixture(scope="module")
def base() -> Base:
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)}, PATTERN, {END_OF_TEXT: 256})
    config = Architecture(257, CONTEXT, n_layer=2, n_head=2, n_embd=32)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        # Without its shift, a layer norm's output has the mean 0 whatever went in.
        model.norm.bias.normal_(generator=torch.Generator().manual_seed(1))
    return Base(Path(), "", "generate", config, model.eval(), tokenizer, (256,), None, {})


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    generator = torch.Generator().manual_seed(2)
    lora = LoRA(base.config, LoRASettings(rank=2))
    lora.init_weights(generator)
    with torch.no_grad():
        for b in lora.b.values():
            b.normal_(0, 0.1, generator=generator)
    head = ClassifierHead(32, Labels(("ham", "spam"), "spam"))
    head.init_weights(generator)
    return {"spam": Adapter(Path(), "", "classify", lora.eval(), head.eval(), {})}


def engine(
    base: Base,
    adapters: dict[str, Adapter] | None = None,
    *,
    slots: int = 8,
    step_tokens: int = 32,
) -> Engine:
    bounds = EngineSettings(slots=slots, step_tokens=step_tokens)
    return Engine(base, adapters or {}, bounds, deliver=lambda events: None)


def tokens(length: int, start: int = 0) -> tuple[int, ...]:
    return tuple((start + i * 7) % 256 for i in range(length))


@torch.no_grad()
def direct(base: Base, of: tuple[int, ...], adapter: Adapter | None = None) -> list[float]:
    """The mean of the hidden states of one plain forward pass."""
    lora = None if adapter is None else adapter.lora
    hidden = base.model(torch.tensor([of]), adapters=lora)[0]
    mean: list[float] = hidden.mean(dim=0).tolist()
    return mean


def values(events: list[Event]) -> tuple[float, ...]:
    [event] = events
    assert isinstance(event, Embedded), event
    return event.values


def test_an_embedding_is_the_mean_of_the_hidden_states(base: Base) -> None:
    requests = [Request(str(n), tokens(n, n), Embed()) for n in (1, 5, 16, 31, CONTEXT)]
    for request, events in zip(requests, engine(base).run(requests), strict=True):
        assert values(events) == pytest.approx(direct(base, request.tokens), abs=NEAR)
        assert isinstance(events[0], Embedded)
        assert events[0].prompt_tokens == len(request.tokens)


def test_a_batch_with_other_kinds_of_requests(base: Base, adapters: dict[str, Adapter]) -> None:
    sampling = SamplingSettings(temperature=0)
    requests = [
        Request("text", tokens(9), Generate(12, sampling, ignore_eos=True)),
        Request("plain", tokens(40, 3), Embed()),
        Request("label", tokens(20), Classify(), "spam"),
        Request("adapted", tokens(40, 3), Embed(), "spam"),
        Request("short", tokens(2, 8), Embed(), "spam"),
    ]
    own = engine(base, adapters, step_tokens=11)
    together = own.run(requests)
    assert isinstance(together[0][-1], Finished)
    for request, events in zip(requests, together, strict=True):
        if isinstance(request.want, Embed):
            adapter = adapters[request.adapter] if request.adapter else None
            expected = direct(base, request.tokens, adapter)
            assert values(events) == pytest.approx(expected, abs=NEAR)
    assert values(together[1]) != pytest.approx(values(together[3]), abs=0.01)
    assert own.stats().free_blocks == own.stats().blocks


@pytest.mark.parametrize("step_tokens", [2, 7, 16, 200])
def test_a_text_computed_in_chunks(base: Base, step_tokens: int) -> None:
    own = engine(base, slots=2, step_tokens=step_tokens)
    others = [Request("other", tokens(50, 9), Embed())]
    [events, _] = own.run([Request("long", tokens(77), Embed()), *others])
    assert values(events) == pytest.approx(direct(base, tokens(77)), abs=NEAR)


def test_what_the_cache_has_is_not_skipped(base: Base) -> None:
    """A classification of the same tokens would take their blocks over; their hidden states are
    nowhere. The other way round, an embedding leaves blocks that others do take over."""
    own = engine(base)
    sampling = SamplingSettings(temperature=0)
    text = Request("text", tokens(70), Generate(4, sampling, ignore_eos=True))
    own.run([text])
    [events] = own.run([Request("again", tokens(70), Embed())])
    assert values(events) == pytest.approx(direct(base, tokens(70)), abs=NEAR)
    assert own.stats().cached_tokens == 0

    fresh = engine(base)
    fresh.run([Request("first", tokens(70), Embed())])
    [events] = fresh.run([text])
    assert isinstance(events[-1], Finished)
    assert events[-1].cached_tokens == 64


def test_equal_texts_do_not_wait_for_one_another(base: Base) -> None:
    requests = [Request(str(i), tokens(60), Embed()) for i in range(6)]
    requests.insert(3, Request("label", tokens(60), Generate(1, ignore_eos=True)))
    answers = engine(base, step_tokens=24).run(requests)
    for request, events in zip(requests, answers, strict=True):
        if isinstance(request.want, Embed):
            assert values(events) == pytest.approx(direct(base, tokens(60)), abs=NEAR)


def test_a_preempted_embedding_begins_anew(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was added up before it lost its blocks is not added up twice, nor left out."""
    monkeypatch.setattr(EngineSettings, "blocks", lambda self, config, dtype: 8)
    own = engine(base, slots=3, step_tokens=8)
    sampling = SamplingSettings(temperature=0)
    growing = [
        Request(f"text{i}", tokens(14, i), Generate(60, sampling, ignore_eos=True))
        for i in range(2)
    ]
    embeds = [Request(f"embed{i}", tokens(50, i), Embed()) for i in range(3)]
    answers = own.run([growing[0], embeds[0], growing[1], *embeds[1:]])
    preempted = own.stats().preemptions
    for request, events in zip(embeds, [answers[1], *answers[3:]], strict=True):
        assert values(events) == pytest.approx(direct(base, request.tokens), abs=NEAR)
    assert preempted, "the cache was to be too small"
    assert own.stats().free_blocks == own.stats().blocks


def test_bad_hidden_states_are_an_error_and_not_found_again(base: Base) -> None:
    broken = Transformer(base.config).eval()
    broken.load_state_dict(base.model.state_dict())
    with torch.no_grad():
        broken.embedding.weight[7] = float("inf")
    own = engine(replace(base, model=broken))
    [bad, good] = own.run(
        [Request("bad", tokens(40), Embed()), Request("good", tokens(40, 1)[:30], Embed())]
    )
    assert isinstance(bad[-1], Failed)
    assert not [event for event in good if isinstance(event, Text)]
    assert isinstance(good[-1], Embedded)


def test_a_text_longer_than_the_context_is_refused(base: Base) -> None:
    with pytest.raises(ContextLengthError):
        engine(base).run([Request("1", tokens(CONTEXT + 1), Embed())])
