"""All blocks in one call: close to the same in torch, and a row gets the same bits everywhere."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from model.architecture import Architecture
from model.attention import Attends
from model.cpu import library
from model.cpu import quantize as quantize_module
from model.cpu.attention import TOKENS, PagedCache, Plan
from model.cpu.quantize import TorchLinear, quantize
from model.cpu.quantized_blocks import CACHE_DTYPE, QuantizedBlocks
from model.lora import AdapterRows, LoRA, LoRASettings
from model.rope import Llama3Scaling, Rope
from model.transformer import Transformer
from tests.model.layers import in_nested, in_nibbles, kernel_or_skip

VOCAB, CONTEXT = 101, 64
_MODERN: dict[str, Any] = {"norm": "rms", "mlp": "swiglu", "bias": "none", "rope": Rope()}
FAMILIES: dict[str, Architecture] = {
    # Few of its channels fill whole blocks of 64.
    "gpt2": Architecture(VOCAB, CONTEXT, n_layer=2, n_head=3, n_embd=48),
    "gpt2, another MLP": Architecture(VOCAB, CONTEXT, 2, 3, 48, mlp_width=80),
    "llama": Architecture(
        *(VOCAB, CONTEXT, 2, 6, 96),
        **{**_MODERN, "rope": Rope(1e5, Llama3Scaling(8.0, 1.0, 4.0, 16))},
        n_kv_head=2,
        head_dim=64,
        mlp_width=112,
    ),
    "qwen2": Architecture(
        *(VOCAB, CONTEXT, 2, 7, 112),
        **{**_MODERN, "bias": "qkv"},
        tied=False,
        n_kv_head=1,
        head_dim=80,
        mlp_width=272,
    ),
    "qwen3": Architecture(
        *(VOCAB, CONTEXT, 2, 4, 64),
        **_MODERN,
        qk_norm=True,
        n_kv_head=2,
        head_dim=128,
        mlp_width=96,
    ),
    "heads of 96": Architecture(
        *(VOCAB, CONTEXT, 2, 4, 48), **_MODERN, n_kv_head=4, head_dim=96, mlp_width=48
    ),
}
GPT2 = FAMILIES["gpt2"]
PER_SEQUENCE = CONTEXT // TOKENS
CELLS = [torch.float32, torch.bfloat16]


class Step(Attends):
    """The tokens of some sequences, sequence i in the i-th part of the cache."""

    def __init__(self, cache: PagedCache, segments: list[tuple[int, int, int]]) -> None:
        self.plan = Plan(
            cache,
            [
                (range(i * PER_SEQUENCE, (i + 1) * PER_SEQUENCE), start, length)
                for i, start, length in segments
            ],
        )

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.plan.attend(layer, query, key, value)


@pytest.fixture(params=[*FAMILIES, "gpt2 in nibbles", "llama in nibbles", "llama in nested"])
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """Of some networks, the layers that read the residual stream get weights of 4 bits."""
    name, _, four_bits = request.param.partition(" in ")
    config = FAMILIES[name]
    if four_bits:
        quantize_weight = quantize_module.quantize_weight

        def mixed(weight: Tensor, *, grouped: bool) -> tuple[Tensor, Tensor]:
            kind = in_nested if four_bits == "nested" else in_nibbles
            of_stream = weight.shape[1] == config.n_embd
            return (kind if of_stream else quantize_weight)(weight, grouped=grouped)

        monkeypatch.setattr(quantize_module, "quantize_weight", mixed)
    return config


def new_model(config: Architecture) -> Transformer:
    """With weights as large as a trained network has them."""
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.15, generator=generator)
    return model


def quantized(config: Architecture, path: str | None = None) -> Transformer:
    model = new_model(config)
    quantize(model, kernel_or_skip(path))
    assert isinstance(model.blocks[0], QuantizedBlocks)
    return model


def new_cache(
    model: Transformer, dtype: torch.dtype = torch.float32, sequences: int = 6
) -> PagedCache:
    """Full of NaN: what was not stored must not be read."""
    config, blocks = model.config, model.blocks[0]
    assert isinstance(blocks, QuantizedBlocks)
    shape = (config.n_layer, sequences * PER_SEQUENCE, config.n_kv_head, TOKENS, config.head_dim)
    keys = torch.full(shape, torch.nan, dtype=dtype)
    group = config.n_head // config.n_kv_head
    return PagedCache(blocks.network.kernel, keys, keys.clone(), group)


def new_lora(
    config: Architecture,
    rank: int,
    targets: tuple[str, ...] = (),
    seed: int = 0,
    *,
    dora: bool = False,
) -> LoRA:
    lora = LoRA(config, LoRASettings(rank=rank, targets=targets, dora=dora)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return lora


def tokens_of(sequence: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + sequence)
    return torch.randint(0, VOCAB, (CONTEXT,), generator=generator)


@torch.inference_mode()
def run(
    model: Transformer,
    cache: PagedCache,
    segments: list[tuple[int, int, int]],
    adapters: dict[int, LoRA] | None = None,
) -> list[Tensor]:
    """The hidden states of each segment; sequence i with adapter i."""
    ends = list(accumulate((length for *_, length in segments), initial=0))
    groups = [
        (adapters[sequence], slice(first, first + length))
        for (sequence, _, length), first in zip(segments, ends, strict=False)
        if adapters and sequence in adapters
    ]
    hidden = model(
        torch.cat([tokens_of(i)[start : start + length] for i, start, length in segments]),
        positions=torch.cat([torch.arange(start, start + n) for _, start, n in segments]),
        cache=Step(cache, segments),
        adapters=AdapterRows(groups) if groups else None,
    )
    return list(hidden.split([length for *_, length in segments]))


def mixed(config: Architecture) -> dict[int, LoRA]:
    """Adapters of different ranks and targets; sequences 1 and 4 have none."""
    return {
        0: new_lora(config, 4),
        2: new_lora(config, 16, ("q", "v", "down"), seed=1),
        3: new_lora(config, 20, ("out", "up"), seed=2),
        5: new_lora(config, 3, seed=3, dora=True),
    }


STEPS = [
    [(0, 0, 7), (1, 0, 33), (4, 0, 1)],
    [(0, 7, 1), (2, 0, 21), (1, 33, 9), (3, 0, 5), (5, 0, 6)],
    [(1, 42, 1), (0, 8, 50), (2, 21, 1), (3, 5, 1), (4, 1, 1), (5, 6, 2)],
]


def by_torch(config: Architecture, tokens: Tensor, lora: LoRA | None) -> Tensor:
    """The network's own modules one by one, its linear layers with 8-bit weights by torch."""
    model = new_model(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load", lambda: None)
        quantize(model)
    assert isinstance(model.blocks[0].get_submodule("mlp.down").layer, TorchLinear)
    return model(tokens[None], adapters=lora)[0]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("path", library.PATHS)
@torch.inference_mode()
def test_it_agrees_with_torch(path: str, config: Architecture) -> None:
    """Rounding may turn a byte of an activation: that, and no more, is the difference. It adds up
    from token to token, while 8-bit weights themselves cost 2 to 5% here."""
    model, tokens = quantized(config, path), tokens_of(0)[:50]
    for lora in (None, *mixed(config).values(), new_lora(config, 0)):
        goal = by_torch(config, tokens, lora)
        adapters = {} if lora is None else {0: lora}
        [hidden] = run(model, new_cache(model), [(0, 0, 50)], adapters)
        assert (hidden - goal).norm() < 1e-2 * goal.norm()
        assert (hidden[0] - goal[0]).norm() < 1e-4 * goal[0].norm()
        # A cache in bf16, as in serving and in evaluation, rounds keys and values.
        rounded = model(tokens[None], adapters=lora)[0]
        assert 0 < (rounded - hidden).norm() < (0.04 if lora is None else 0.15) * goal.norm()
        if lora is not None and lora.settings.rank:
            assert (model(tokens[None])[0] - goal).norm() > 0.05 * goal.norm()


@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("path", library.PATHS)
def test_every_path_gives_the_same_bits(
    path: str, dtype: torch.dtype, config: Architecture
) -> None:
    models, adapters = (quantized(config, path), quantized(config, "portable")), mixed(config)
    caches = [new_cache(model, dtype) for model in models]
    for segments in STEPS:
        ours, portable = (
            run(model, cache, segments, adapters)
            for model, cache in zip(models, caches, strict=True)
        )
        assert torch.equal(torch.cat(ours), torch.cat(portable))


@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("path", library.PATHS)
def test_batch_and_chunks_change_no_bit(
    path: str, dtype: torch.dtype, config: Architecture
) -> None:
    """Each sequence of the mixed steps against the whole of it alone, in one piece."""
    model, adapters = quantized(config, path), mixed(config)
    cache, parts = new_cache(model, dtype), dict[int, list[Tensor]]()
    for segments in STEPS:
        found = run(model, cache, segments, adapters)
        for (sequence, *_), part in zip(segments, found, strict=True):
            parts.setdefault(sequence, []).append(part)
    for sequence, pieces in parts.items():
        together = torch.cat(pieces)
        whole = run(model, new_cache(model, dtype), [(sequence, 0, len(together))], adapters)[0]
        assert torch.equal(together, whole), sequence


@torch.inference_mode()
def test_without_a_cache_it_is_the_same(config: Architecture) -> None:
    model, lora = quantized(config), new_lora(config, 16, ("q", "v", "down"), seed=1)
    batch = torch.stack([tokens_of(2)[:40], tokens_of(5)[:40]])
    hidden = model(batch, adapters=lora)
    adapters = {2: lora, 5: lora}
    cache = new_cache(model, CACHE_DTYPE)
    parts = run(model, cache, [(2, 0, 40), (5, 0, 40)], adapters)
    assert torch.equal(hidden, torch.stack(parts))
    assert torch.equal(model(batch[:, :7], adapters=lora), hidden[:, :7])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("choices", [{}, {**_MODERN, "n_kv_head": 1, "qk_norm": True}])
def test_threads_change_no_bit(number: int, choices: dict[str, Any]) -> None:
    """Also with more threads than cores, which then have to sleep at the gates."""
    config = Architecture(VOCAB, CONTEXT, n_layer=2, n_head=7, n_embd=224, **choices)  # enough work
    model = quantized(config)
    lora = LoRA(config, LoRASettings(rank=8)).eval()
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.fill_(0.01)
    segments = [[(0, 0, 1)], [(0, 1, 1), (1, 0, 1)], [(0, 2, 30), (1, 1, 1), (2, 0, 11)]]
    results = []
    for threads in (1, number):
        torch.set_num_threads(threads)
        cache = new_cache(model)
        results.append([torch.cat(run(model, cache, s, {0: lora})) for s in segments])
    for one, several in zip(*results, strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize("path", library.PATHS)
@torch.inference_mode()
def test_a_row_that_is_no_number_stays_alone(path: str, config: Architecture) -> None:
    """Neither neighbours nor earlier tokens of its own sequence see it."""
    model = quantized(config, path)
    generator = torch.Generator().manual_seed(0)
    blocks, x = model.blocks[0], torch.randn(21, config.n_embd, generator=generator)
    segments, lora = [(0, 0, 10), (1, 0, 11)], new_lora(config, 16, ("qkv", "down"), seed=1)
    adapters = AdapterRows([(lora, slice(2, 21))])
    places = torch.cat([torch.arange(10), torch.arange(11)])
    angles = model.positions.angles(places, x.device)
    goal = blocks(x, angles, Step(new_cache(model), segments), adapters)
    for at in (0, 7, 12):
        broken = x.clone()
        broken[at, 5] = torch.nan
        got = blocks(broken, angles, Step(new_cache(model), segments), adapters)
        later = slice(at, 10 if at < 10 else 21)
        assert got[later].isnan().all()
        got[later] = goal[later]
        assert torch.equal(got, goal)


@torch.inference_mode()
def test_what_it_is_given_stays() -> None:
    model, x = quantized(GPT2), torch.randn(1, 5, 48)
    before = x.clone()
    assert not torch.equal(model.blocks[0](x), x)
    assert torch.equal(x, before)


def test_an_adapter_is_packed_once_and_goes_with_it() -> None:
    model, lora = quantized(GPT2), new_lora(GPT2, 4)
    blocks = model.blocks[0]
    assert isinstance(blocks, QuantizedBlocks)
    model(tokens_of(0)[None], adapters=lora)
    packed = blocks._packed[lora]
    model(tokens_of(1)[None], adapters=lora)
    assert blocks._packed[lora] is packed
    del lora
    assert not blocks._packed


def test_the_model_remains_what_it_was() -> None:
    model = quantized(GPT2)
    assert model.quantized
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    assert model.parameter_count() == new_model(GPT2).parameter_count()


@pytest.mark.parametrize("compiled", [True, False])
def test_other_shapes_are_left_to_torch(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled:
        kernel_or_skip()
    else:
        monkeypatch.setattr(library, "load", lambda: None)
    config = Architecture(101, 64, n_layer=2, n_head=6, n_embd=48) if compiled else GPT2
    model = new_model(config)
    quantize(model)
    assert not any(isinstance(module, QuantizedBlocks) for module in model.modules())
    goal = new_model(config)(tokens_of(0)[None])
    assert (model(tokens_of(0)[None]) - goal).norm() < 0.1 * goal.norm()
