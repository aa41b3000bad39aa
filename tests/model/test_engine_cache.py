"""The engine's cache: full, shared and taken away, it never changes what a request gets."""

import random
import time
from dataclasses import replace

import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import Adapter, Base
from model.engine.engine import Engine
from model.engine.request import Event, Failed, Finished, Generate, Request, Text
from model.engine.settings import EngineSettings
from model.errors import UsageError
from model.sampling import SamplingSettings
from model.transformer import Transformer
from tests.model.engines import random_adapter, random_base, text_of

CONTEXT = 128
BLOCK_MB = 2 * 2 * 16 * 32 * 4 / 2**20  # K and V, layers, tokens, width, bytes


@pytest.fixture(scope="module")
def base() -> Base:
    return random_base(CONTEXT)


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    return {"other": random_adapter(base, 1, classifies=False)}


def engine(
    base: Base, adapters: dict[str, Adapter] | None = None, *, blocks: int = 128, **more: int
) -> Engine:
    """An engine whose cache has so many blocks."""
    settings = EngineSettings(**{"slots": 8, "step_tokens": 32, **more})
    # Megabytes are too coarse for networks of this size.
    size = {"blocks": lambda self, config, dtype: blocks}
    return Engine(base, adapters or {}, _with(settings, size), deliver=lambda events: None)


def _with(settings: EngineSettings, methods: dict[str, object]) -> EngineSettings:
    changed = type("Sized", (EngineSettings,), methods)
    sized: EngineSettings = changed(**{n: getattr(settings, n) for n in settings.__match_args__})
    return sized


def request(name: str, tokens: list[int], new: int, adapter: str | None = None) -> Request:
    sampling = SamplingSettings(temperature=1.0, seed=len(tokens))
    want = Generate(new, sampling, ignore_eos=True)
    return Request(name, tuple(t % 256 for t in tokens), want, adapter)


def end_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


def test_sequences_that_make_room_for_others_get_the_same_text(base: Base) -> None:
    requests = [request(str(i), [i * 31 + t * 7 for t in range(10 + i)], 60) for i in range(8)]
    small = engine(base, blocks=14)  # half of what they need in the end
    crowded = small.run(requests)
    stats = small.stats()
    assert stats.preemptions > 2
    assert stats.free_blocks == stats.blocks == 14
    roomy = engine(base)
    assert [text_of(e) for e in crowded] == [text_of(e) for e in roomy.run(requests)]
    assert roomy.stats().preemptions == 0


def test_sequences_that_pause_get_the_same_text(base: Base) -> None:
    requests = [request(str(i), [i * 31 + t * 7 for t in range(10 + i)], 40) for i in range(12)]
    shared = [replace(each, client=str(i % 5)) for i, each in enumerate(requests)]
    crowded, roomy = engine(base, slots=3), engine(base, slots=12)
    events = crowded.run(shared)
    assert [text_of(e) for e in events] == [text_of(e) for e in roomy.run(requests)]
    # More than the slots had begun, and none was computed twice.
    firsts = sorted(end_of(e).timings.queue for e in events)
    ends = sorted(sum(vars(end_of(e).timings).values()) for e in events)
    assert sum(first < ends[0] for first in firsts) > 3
    assert crowded.stats().preemptions == 0


def test_a_repeated_beginning_is_taken_from_the_cache(
    base: Base, adapters: dict[str, Adapter]
) -> None:
    head = [t * 5 for t in range(50)]
    requests = [request(f"{i}", head + [i] * 9, 20) for i in range(4)]
    requests += [replace(r, id=f"other {r.id}", adapter="other") for r in requests]
    own = engine(base, adapters, slots=2)
    shared = own.run(requests)
    fresh = engine(base, adapters, reuse_prefixes=False).run(requests)
    assert [text_of(e) for e in shared] == [text_of(e) for e in fresh]
    # The first of each adapter computes the three full blocks of the head, the others take them.
    assert [end_of(e).cached_tokens for e in shared] == [0, 48, 48, 48] * 2
    assert [end_of(e).cached_tokens for e in fresh] == [0] * 8
    assert own.stats().cached_tokens == 6 * 48
    assert own.stats().prompt_tokens == 8 * 59
    # Both adapters had the same tokens, and different texts.
    assert text_of(shared[0]) != text_of(shared[4])


def test_a_later_turn_finds_the_text_of_the_one_before(base: Base) -> None:
    own = engine(base)
    prompt = [t * 3 for t in range(20)]
    first = request("1", prompt, 40)
    [events] = own.run([replace(first, want=replace(first.want, logprobs=0))])  # type: ignore[arg-type]
    generated = [value.token for e in events if isinstance(e, Text) for value in e.logprobs]
    assert len(generated) == 40
    longer = [*prompt, *generated, 1, 2, 3]
    [follow] = own.run([request("2", longer, 10)])
    [fresh] = engine(base).run([request("2", longer, 10)])
    assert text_of(follow) == text_of(fresh)
    assert end_of(follow).cached_tokens == 48


def test_content_survives_as_long_as_its_memory_is_not_needed(base: Base) -> None:
    own = engine(base, blocks=8)
    [first] = own.run([request("1", list(range(40)), 2)])
    [again] = own.run([request("2", list(range(40)), 2)])
    own.run([request("big", [t * 9 for t in range(100)], 28)])
    [lost] = own.run([request("3", list(range(40)), 2)])
    assert [end_of(e).cached_tokens for e in (first, again, lost)] == [0, 32, 0]
    assert text_of(first) == text_of(again) == text_of(lost)


def test_a_storm_of_cancellations_leaves_an_empty_engine(
    base: Base, adapters: dict[str, Adapter]
) -> None:
    """Requests are dropped while they wait, in the middle of a prompt and while they decode."""
    draw = random.Random(0)
    own = engine(base, adapters, blocks=20, max_waiting=1000)
    own.start()
    live: list[str] = []
    for i in range(300):
        tokens = [draw.randrange(3) for _ in range(draw.randrange(1, 90))]
        adapter = draw.choice([None, "other"])
        own.submit(request(str(i), tokens, draw.randrange(1, 128 - len(tokens)), adapter))
        live.append(str(i))
        if draw.random() < 0.7:
            own.cancel(live.pop(draw.randrange(len(live))))
        if i % 10 == 0:  # let it get somewhere
            steps = own.stats().steps
            while (now := own.stats()).running + now.waiting and now.steps < steps + 10:
                time.sleep(0.001)
    for name in live:
        own.cancel(name)
    own.stop(timeout=60)
    stats = own.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, 20)
    assert stats.preemptions > 0
    assert not own.alive


def test_a_cache_too_small_for_one_context_is_refused(base: Base) -> None:
    config = Architecture(257, 2048, n_layer=12, n_head=2, n_embd=768)
    # 2 × 12 layers × 768 × 4 bytes = 72 KiB a token
    with pytest.raises(UsageError, match="cache_mb is 143; one context of 2048 tokens needs 144"):
        EngineSettings(cache_mb=143).blocks(config, torch.float32)
    assert EngineSettings(cache_mb=144).blocks(config, torch.float32) == 128
    assert EngineSettings(cache_mb=144).blocks(config, torch.bfloat16) == 256
    assert EngineSettings().blocks(config, torch.float32) == 16 * 128


def test_an_engine_takes_the_memory_that_it_is_given(base: Base) -> None:
    own = Engine(base, {}, EngineSettings(cache_mb=3), deliver=lambda events: None)
    assert own.stats().cache_bytes == own.stats().blocks * BLOCK_MB * 2**20
    assert 3 - BLOCK_MB < own.stats().cache_bytes / 2**20 <= 3


def test_a_spoilt_sequence_spoils_no_other(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    own = engine(base)
    plain = request("1", list(range(60)), 5)
    run = own._runner.run

    def spoil(chunks):  # type: ignore[no-untyped-def]
        output = run(chunks)
        output.logits.fill_(torch.nan)
        return output

    with monkeypatch.context() as patched:
        patched.setattr(own._runner, "run", spoil)
        [events] = own.run([plain])
    assert isinstance(events[-1], Failed)
    [events] = own.run([replace(plain, id="2")])
    assert end_of(events).cached_tokens == 0


def test_a_step_is_as_long_as_suits_the_network(base: Base) -> None:
    assert EngineSettings().tokens_of_step(base.model) == 512
    assert EngineSettings(step_tokens=40).tokens_of_step(base.model) == 40
    assert EngineSettings(slots=300).tokens_of_step(base.model) == 600
    larger = Transformer(Architecture(257, CONTEXT, n_layer=2, n_head=2, n_embd=1024))
    tokens = EngineSettings().tokens_of_step(larger)
    assert tokens == 8_000_000_000 // larger.parameter_count() < 512
