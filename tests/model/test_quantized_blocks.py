"""All blocks in one call: close to the same in torch, and a row gets the same bits everywhere."""

from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.architecture import Architecture
from model.attention import Attends
from model.cpu import int8
from model.cpu.attention import TOKENS, PagedCache, Plan
from model.cpu.quantize import TorchLinear, quantize, quantize_weight
from model.cpu.quantized_blocks import CACHE_DTYPE, QuantizedBlocks
from model.lora import AdapterRows, LoRA, LoRASettings
from model.transformer import Transformer

CONFIG = Architecture(101, 64, n_layer=2, n_head=3, n_embd=48)
"""Few of its channels fill whole blocks of 64."""
PER_SEQUENCE = CONFIG.context_length // TOKENS
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


def kernel_or_skip(path: str | None = None) -> int8.Kernel:
    try:
        kernel = int8.load(path)
    except ValueError:
        pytest.skip(f"this processor has no {path}")
    if kernel is None:
        pytest.skip("the C kernels were not compiled when the package was installed")
    return kernel


def new_model(config: Architecture = CONFIG) -> Transformer:
    """With weights as large as a trained network has them."""
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.15, generator=generator)
    return model


def quantized(path: str | None = None, config: Architecture = CONFIG) -> Transformer:
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
    shape = (config.n_layer, sequences * PER_SEQUENCE, config.n_head, TOKENS, config.head_dim)
    keys = torch.full(shape, torch.nan, dtype=dtype)
    return PagedCache(blocks.network.kernel, keys, keys.clone())


def new_lora(rank: int, targets: tuple[str, ...] = (), seed: int = 0) -> LoRA:
    lora = LoRA(CONFIG, LoRASettings(rank=rank, targets=targets)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return lora


def tokens_of(sequence: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + sequence)
    return torch.randint(0, CONFIG.vocab_size, (CONFIG.context_length,), generator=generator)


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


MIXED = {0: new_lora(4), 2: new_lora(16, seed=1), 3: new_lora(20, ("out", "up"), seed=2)}
"""Adapters of different ranks and targets; sequences 1 and 4 have none."""
STEPS = [
    [(0, 0, 7), (1, 0, 33), (4, 0, 1)],
    [(0, 7, 1), (2, 0, 21), (1, 33, 9), (3, 0, 5)],
    [(1, 42, 1), (0, 8, 50), (2, 21, 1), (3, 5, 1), (4, 1, 1)],
]


def by_torch(
    model: Transformer, tokens: Tensor, adapters: LoRA | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """8-bit layers, layer norms, attention, GELU and adapters one by one, each by torch."""
    blocks = model.blocks[0]
    assert isinstance(blocks, QuantizedBlocks)
    full = new_model(model.config)
    x = model.embedding(tokens) + model.positions.weight[: len(tokens)]

    def linear(path: str, x: Tensor) -> Tensor:
        layer = full.get_submodule(path)
        assert isinstance(layer, torch.nn.Linear)
        y = TorchLinear(*quantize_weight(layer.weight), layer.bias)(x)
        return y if adapters is None else adapters.adapt(path, x, y)

    for number, block in enumerate(blocks._blocks()):
        path = f"blocks.{number}."
        qkv = linear(
            path + "attention.qkv", F.layer_norm(x, x.shape[1:], *block.attention_norm.parameters())
        )
        q, k, v = qkv.unflatten(-1, (3, model.config.n_head, -1)).transpose(0, 2).unbind(1)
        k, v = k.to(dtype).float(), v.to(dtype).float()
        y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        x = x + linear(path + "attention.out", y.transpose(0, 1).flatten(1))
        hidden = linear(path + "mlp.up", F.layer_norm(x, x.shape[1:], *block.mlp_norm.parameters()))
        x = x + linear(path + "mlp.down", F.gelu(hidden, approximate="tanh"))
    return model.norm(x)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("path", int8.PATHS)
@pytest.mark.parametrize("lora", [None, *MIXED.values(), new_lora(0)])
@torch.inference_mode()
def test_it_agrees_with_torch(path: str, lora: LoRA | None) -> None:
    """Rounding may turn a byte of an activation: that, and no more, is the difference."""
    model, tokens = quantized(path), tokens_of(0)[:50]
    goal = by_torch(model, tokens, lora)
    adapters = {} if lora is None else {0: lora}
    [hidden] = run(model, new_cache(model), [(0, 0, 50)], adapters)
    assert (hidden - goal).norm() < 2e-3 * goal.norm()
    # A cache in bf16, as in serving and in evaluation, rounds keys and values.
    rounded = model(tokens[None], adapters=lora)[0]
    assert 0 < (rounded - hidden).norm() < 2e-2 * goal.norm()
    if lora is not None and lora.settings.rank:
        assert (model(tokens[None])[0] - goal).norm() > 0.05 * goal.norm()


@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("path", int8.PATHS)
def test_every_path_gives_the_same_bits(path: str, dtype: torch.dtype) -> None:
    models = quantized(path), quantized("portable")
    caches = [new_cache(model, dtype) for model in models]
    for segments in STEPS:
        ours, portable = (
            run(model, cache, segments, MIXED) for model, cache in zip(models, caches, strict=True)
        )
        assert torch.equal(torch.cat(ours), torch.cat(portable))


@pytest.mark.parametrize("dtype", CELLS)
@pytest.mark.parametrize("path", int8.PATHS)
def test_batch_and_chunks_change_no_bit(path: str, dtype: torch.dtype) -> None:
    """Each sequence of the mixed steps against the whole of it alone, in one piece."""
    model = quantized(path)
    cache, parts = new_cache(model, dtype), dict[int, list[Tensor]]()
    for segments in STEPS:
        for (sequence, *_), part in zip(segments, run(model, cache, segments, MIXED), strict=True):
            parts.setdefault(sequence, []).append(part)
    for sequence, pieces in parts.items():
        together = torch.cat(pieces)
        whole = run(model, new_cache(model, dtype), [(sequence, 0, len(together))], MIXED)[0]
        assert torch.equal(together, whole), sequence


@torch.inference_mode()
def test_without_a_cache_it_is_the_same() -> None:
    model, lora = quantized(), MIXED[2]
    batch = torch.stack([tokens_of(2)[:40], tokens_of(5)[:40]])
    hidden = model(batch, adapters=lora)
    adapters = {2: lora, 5: lora}
    cache = new_cache(model, CACHE_DTYPE)
    parts = run(model, cache, [(2, 0, 40), (5, 0, 40)], adapters)
    assert torch.equal(hidden, torch.stack(parts))
    assert torch.equal(model(batch[:, :7], adapters=lora), hidden[:, :7])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [2, 3])
def test_threads_change_no_bit(number: int) -> None:
    """Also with more threads than cores, which then have to sleep at the gates."""
    config = Architecture(101, 64, n_layer=2, n_head=7, n_embd=224)  # enough work
    model = quantized(config=config)
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


@pytest.mark.parametrize("path", int8.PATHS)
@torch.inference_mode()
def test_a_row_that_is_no_number_stays_alone(path: str) -> None:
    """Neither neighbours nor earlier tokens of its own sequence see it."""
    model = quantized(path)
    blocks, x = model.blocks[0], torch.randn(21, 48, generator=torch.Generator().manual_seed(0))
    segments, lora = [(0, 0, 10), (1, 0, 11)], MIXED[2]
    adapters = AdapterRows([(lora, slice(2, 21))])
    goal = blocks(x, None, Step(new_cache(model), segments), adapters)
    for at in (0, 7, 12):
        broken = x.clone()
        broken[at, 5] = torch.nan
        got = blocks(broken, None, Step(new_cache(model), segments), adapters)
        later = slice(at, 10 if at < 10 else 21)
        assert got[later].isnan().all()
        got[later] = goal[later]
        assert torch.equal(got, goal)


@torch.inference_mode()
def test_what_it_is_given_stays() -> None:
    model, x = quantized(), torch.randn(1, 5, 48)
    before = x.clone()
    assert not torch.equal(model.blocks[0](x), x)
    assert torch.equal(x, before)


def test_an_adapter_is_packed_once_and_goes_with_it() -> None:
    model, lora = quantized(), new_lora(4)
    blocks = model.blocks[0]
    assert isinstance(blocks, QuantizedBlocks)
    model(tokens_of(0)[None], adapters=lora)
    packed = blocks._packed[lora]
    model(tokens_of(1)[None], adapters=lora)
    assert blocks._packed[lora] is packed
    del lora
    assert not blocks._packed


def test_the_model_remains_what_it_was() -> None:
    model = quantized()
    assert model.quantized
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    assert model.parameter_count() == new_model().parameter_count()


@pytest.mark.parametrize("compiled", [True, False])
def test_other_shapes_are_left_to_torch(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled:
        kernel_or_skip()
    else:
        monkeypatch.setattr(int8, "load", lambda: None)
    config = Architecture(101, 64, n_layer=2, n_head=6, n_embd=48) if compiled else CONFIG
    model = new_model(config)
    quantize(model)
    assert not any(isinstance(module, QuantizedBlocks) for module in model.modules())
    goal = new_model(config)(tokens_of(0)[None])
    assert (model(tokens_of(0)[None]) - goal).norm() < 0.1 * goal.norm()
