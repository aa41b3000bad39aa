"""The same request gets the same tokens, whatever else happens, on a CPU.

That holds with 8-bit weights, and with others where products are made in tiles of one size.
Log-probabilities are compared as well: they differ where a single bit of the logits does.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from model.architecture import Architecture, MLPKind
from model.checkpoint import Adapter, Base
from model.cpu import library
from model.engine.engine import Engine
from model.engine.request import (
    Classified,
    Classify,
    Embed,
    Embedded,
    Finished,
    Generate,
    Request,
    Text,
)
from model.engine.settings import EngineSettings
from model.kv_cache import CacheStep, KVCache
from model.rope import Llama3Scaling, Rope
from model.sampling import SamplingSettings
from model.transformer import Transformer
from tests.model.engines import Span, exact_adapters, exact_base

pytestmark = pytest.mark.skipif(
    library.load() is None, reason="the C kernels are not compiled; torch alone promises less"
)

GPT2 = Architecture(257, 256, n_layer=3, n_head=4, n_embd=64)
LLAMA = Architecture(
    *(257, 256, 2, 4, 64),
    n_kv_head=2,
    mlp_width=160,
    norm="rms",
    mlp="swiglu",
    bias="none",
    rope=Rope(10_000.0, Llama3Scaling(8.0, 1.0, 4.0, 64)),
)
"""Rotary positions, and pairs of heads that share keys and values."""
QWEN2 = replace(LLAMA, bias="qkv", tied=False, n_head=6, n_kv_head=1, head_dim=80, rope=Rope())
QWEN3 = replace(LLAMA, qk_norm=True, head_dim=96, rope=Rope())
NETWORKS = {
    "int8": (GPT2, None),
    "llama, int8": (replace(LLAMA, head_dim=64), None),
    "qwen2, int8": (QWEN2, None),
    "qwen3, int8": (QWEN3, None),
    "fp32 in tiles": (GPT2, torch.float32),
    "bf16 in tiles": (GPT2, torch.bfloat16),
    "llama, fp32 in tiles": (LLAMA, torch.float32),
    "llama, bf16 in tiles": (LLAMA, torch.bfloat16),
}


@pytest.fixture(scope="module", params=NETWORKS)
def base(request: pytest.FixtureRequest) -> Base:
    return exact_base(*NETWORKS[request.param])


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    return exact_adapters(base)


def requests() -> list[Request]:
    """All kinds; some begin alike, so that there is something to share."""
    made = []
    for i in range(30):
        adapter = (None, "spam", "other")[i % 3]
        head = [(7 * t) % 256 for t in range(40)] if i % 2 else []
        tokens = (*head, *((i * 37 + t * 11) % 256 for t in range(3 + i * 5 % 61)))
        sampling = SamplingSettings(
            temperature=(0.0, 1.0, 0.7)[i % 3 - 1],
            top_k=20 if i % 5 == 0 else None,
            top_p=0.9 if i % 4 == 0 else 1.0,
            repetition_penalty=1.2 if i % 7 == 0 else 1.0,
            seed=i,
        )
        want = Generate(20 + i * 7 % 40, sampling, ignore_eos=True, logprobs=3)
        classify = adapter is not None and i % 4 == 3
        made.append(Request(str(i), tokens, Classify() if classify else want, adapter))
    made += [replace(request, id=f"{request.id}, embedded", want=Embed()) for request in made[1:9]]
    return made


Answer = list[object]


def answers(
    base: Base, adapters: dict[str, Adapter], asked: list[Request], settings: EngineSettings
) -> tuple[list[Answer], Engine]:
    """Tokens and log-probabilities, label probabilities or an embedding, of each request: all that
    is exact."""
    engine = Engine(base, adapters, settings, deliver=lambda events: None)
    result: list[Answer] = []
    for events in engine.run(asked):
        answer: Answer = []
        for event in events:
            if isinstance(event, Text):
                answer += [(v.token, v.logprob, v.top) for v in event.logprobs]
            elif isinstance(event, Finished):
                answer.append((event.reason, event.completion_tokens))
            elif isinstance(event, Embedded):
                answer.append(event.values)
            else:
                assert isinstance(event, Classified), event
                answer.append(event.probabilities)
        result.append(answer)
    return result, engine


@pytest.fixture(scope="module")
def alone(base: Base, adapters: dict[str, Adapter]) -> list[Answer]:
    """What each request gets in an engine that has nothing else to do."""
    settings = EngineSettings(slots=1, step_tokens=256, reuse_prefixes=False)
    return [answers(base, adapters, [request], settings)[0][0] for request in requests()]


def test_in_any_batch_and_in_any_chunks(
    base: Base, adapters: dict[str, Adapter], alone: list[Answer]
) -> None:
    for slots, step_tokens in ((16, 256), (3, 7), (16, 16)):
        settings = EngineSettings(slots=slots, step_tokens=step_tokens, reuse_prefixes=False)
        together, engine = answers(base, adapters, requests(), settings)
        assert together == alone, (slots, step_tokens)
        assert engine.stats().cached_tokens == engine.stats().preemptions == 0


def test_with_prefixes_from_the_cache(
    base: Base, adapters: dict[str, Adapter], alone: list[Answer]
) -> None:
    settings = EngineSettings(slots=4, step_tokens=40)
    together, engine = answers(base, adapters, requests(), settings)
    assert engine.stats().cached_tokens >= 10 * 32
    assert together == alone


def test_after_making_room_for_others(
    base: Base, adapters: dict[str, Adapter], alone: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineSettings, "blocks", lambda *_: 16)  # one full context
    for reuse in (False, True):
        # Drafts are made as time allows, and with them it varies how often room is made.
        settings = EngineSettings(slots=16, step_tokens=64, reuse_prefixes=reuse, speculate=False)
        together, engine = answers(base, adapters, requests(), settings)
        assert engine.stats().preemptions >= 2
        assert together == alone


def test_with_one_thread_or_two(
    base: Base, adapters: dict[str, Adapter], alone: list[Answer], threads: Callable[[int], None]
) -> None:
    for count in (1, 2):
        threads(count)
        assert answers(base, adapters, requests(), EngineSettings())[0] == alone


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_widths_that_no_vector_divides(
    mlp: MLPKind, dtype: torch.dtype, threads: Callable[[int], None]
) -> None:
    """However many threads share the rows of a step, and wherever in a row they begin."""
    model = Transformer(replace(LLAMA, mlp=mlp, mlp_width=1004))
    model.init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter *= 4 if parameter.ndim == 2 else 1
    model.to(dtype).multiply_in_tiles()
    tokens = torch.arange(205) % 256
    for count, *ways in ((1, [1] * 205), (2, [1] * 205), (3, [201, 4]), (5, [203, 2])):
        threads(count)
        found = []
        for cuts in ([205], *ways):
            cache, parts, start = KVCache(LLAMA, 13, dtype=dtype), [], 0
            for length in cuts:
                places = torch.arange(start, start + length)
                step = CacheStep(cache, [Span(range(13), start, length)])
                parts.append(model(tokens[places], positions=places, cache=step))
                start += length
            found.append(torch.cat(parts))
        assert torch.equal(*found), count


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
