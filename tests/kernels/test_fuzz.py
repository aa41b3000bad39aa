"""The C kernels on random shapes and numbers, in a library that checks every access.

    make check-kernels

The sanitizers end the process where C reads or writes what is not its own, or does what C leaves
undefined. Beyond that, every path and every number of threads must give the bits of the portable
path in one thread.
"""

import random
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from model.architecture import Architecture
from model.cpu import library
from model.cpu import quantize as quantize_module
from model.cpu.attention import TOKENS, PagedCache, Plan
from model.cpu.library import Kernel
from model.cpu.linear import PackedLinear, nested
from model.cpu.quantize import quantize_weight
from model.cpu.quantized_blocks import QuantizedBlocks
from model.lora import LoRA, LoRASettings
from model.rope import Rope
from model.transformer import Transformer
from tests.model.layers import in_nested, in_nibbles

pytestmark = [pytest.mark.kernels, pytest.mark.timeout(600)]

SECONDS = 60.0
CELLS = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kernels() -> list[Kernel]:
    """Every path that runs here, the portable one first."""
    fastest = library.load()
    assert fastest is not None, "the kernels are not compiled"
    return [Kernel(fastest.library, library.PATHS.index(path)) for path in fastest.able]


def numbers(chance: random.Random, *shape: int) -> Tensor:
    """Mostly ordinary ones; sometimes zeros, huge, tiny or no numbers."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(chance.randrange(2**31)))
    for value in (0.0, 1e30, -1e-38, torch.inf, -torch.inf, torch.nan):
        if x.numel() and chance.random() < 0.1:
            x.view(-1)[chance.randrange(x.numel())] = value
    return x


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(1e35), other.nan_to_num(1e35))


def nibbles(chance: random.Random, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Weights of 4 bits; scales and minima are any 16 bits, of numbers or of none, and in a nested
    layer times any byte."""
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    values = torch.randint(16, (outputs, inputs), generator=generator, dtype=torch.uint8)
    of_super = chance.random() < 0.5
    scale = numbers(chance, outputs, -(-inputs // (256 if of_super else 32)), 2).half()
    if chance.random() < 0.3:
        bits = torch.randint(-(2**15), 2**15, scale.shape, generator=generator)
        scale = bits.to(torch.int16).view(torch.float16)
    if not of_super:
        return values, scale
    of_groups = torch.randint(256, (*scale.shape, 8), generator=generator, dtype=torch.uint8)
    return values, nested(scale, of_groups)


def linear(chance: random.Random) -> None:
    inputs, rows = chance.randint(1, 300), chance.choice((0, 1, 2, 3, 4, 5, 17, 130))
    paired = chance.random() < 0.3
    outputs = 2 * chance.randint(1, 100) if paired else chance.randint(1, 200)
    if chance.random() < 0.3:
        values, scale = nibbles(chance, outputs, inputs)
    else:
        weight = numbers(chance, outputs, inputs).nan_to_num(0.0, 0.0, 0.0)
        values, scale = quantize_weight(weight, grouped=chance.random() < 0.5)
        scale = scale.half() if scale.ndim == 2 and chance.random() < 0.5 else scale
    bias = chance.choice((None, numbers(chance, outputs)))
    x, goal = numbers(chance, rows, inputs), None
    channels = torch.tensor([chance.randint(-2, outputs + 1) for _ in range(3)])
    for kernel in kernels():
        layer = PackedLinear(kernel, values, scale, bias, paired=paired)
        for count in (1, 2):
            torch.set_num_threads(count)
            y = layer(x)
            goal = y if goal is None else goal
            assert same(y, goal)
        if not paired and 0 <= int(channels.min()) <= int(channels.max()) < outputs:
            layer.rows(channels)
        elif not paired:
            with pytest.raises(IndexError):
                layer.rows(channels)


def gelu(chance: random.Random) -> None:
    x = numbers(chance, chance.choice((0, 1, 15, 16, 17, 1000, 70_000)))
    first, *others = (kernel.gelu(x.clone()) for kernel in kernels())
    assert all(same(first, other) for other in others)


def segments_of(chance: random.Random, blocks: int) -> list[tuple[list[int], int, int]]:
    """Sequences of the tokens that so many blocks hold, each with blocks of its own."""
    free = chance.sample(range(blocks), blocks)
    found = []
    while free and len(found) < 6:
        own = [free.pop() for _ in range(min(len(free), chance.randint(1, 4)))]
        start = chance.randint(0, len(own) * TOKENS)
        room = len(own) * TOKENS - start
        found.append((own, start, chance.choice((0, min(1, room), chance.randint(0, room)))))
    return found


def attention(chance: random.Random) -> None:
    heads, group, dim = chance.randint(1, 4), chance.randint(1, 9), 16 * chance.randint(1, 8)
    blocks, goal = chance.randint(1, 12), None
    segments, dtype = segments_of(chance, blocks), chance.choice(CELLS)
    tokens = sum(length for *_, length in segments)
    query = numbers(chance, tokens, heads * group, dim)
    key, value = numbers(chance, 2, tokens, heads, dim).unbind()
    cells = numbers(chance, 2, 2, blocks, heads, TOKENS, dim).to(dtype)
    for kernel, count in product(kernels(), (1, 2)):
        torch.set_num_threads(count)
        keys, values = cells.clone()
        plan = Plan(PagedCache(kernel, keys, values, group), segments)
        out = plan.attend(1, query, key, value)
        found = torch.cat([part.float().flatten() for part in (out, keys, values)])
        goal = found if goal is None else goal
        assert same(found, goal)


def architecture(chance: random.Random) -> Architecture:
    kv_heads, group = chance.randint(1, 3), chance.randint(1, 4)
    width = 16 * chance.randint(1, 6)
    choices: dict[str, Any] = {
        "n_kv_head": kv_heads,
        "head_dim": 16 * chance.randint(1, 8),
        "mlp_width": 16 * chance.randint(1, 9),
        "bias": chance.choice(("all", "qkv", "none")),
        "norm": chance.choice(("layer", "rms")),
        "mlp": chance.choice(("gelu", "swiglu")),
        "qk_norm": chance.random() < 0.5,
        "rope": chance.choice((None, Rope())),
    }
    return Architecture(50, 256, chance.randint(1, 2), kv_heads * group, width, **choices)


def in_kinds(model: Transformer, kernel: Kernel, chance: random.Random | None) -> None:
    """Quantize `model`; with `chance`, layer by layer to 4 bits, nested or not, or to 8."""

    def quantized(weight: Tensor, *, grouped: bool) -> tuple[Tensor, Tensor]:
        kinds = (in_nibbles, in_nested, quantize_weight)
        return chance.choice(kinds)(weight, grouped=grouped)

    with pytest.MonkeyPatch.context() as patch:
        if chance:
            patch.setattr(quantize_module, "quantize_weight", quantized)
        quantize_module.quantize(model, kernel)


def network(chance: random.Random, rank: int | None = None) -> None:
    config, goal = architecture(chance), None
    rank = chance.randint(0, 64) if rank is None else rank
    lora = LoRA(config, LoRASettings(rank=rank, dora=chance.random() < 0.5)).eval()
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(numbers(chance, *parameter.shape).nan_to_num(0.0, 0.0, 0.0) * 0.1)
    blocks = chance.randint(1, 12)
    segments, dtype = segments_of(chance, blocks), chance.choice(CELLS)
    tokens = sum(length for *_, length in segments)
    x, seed = numbers(chance, tokens, config.n_embd), chance.randrange(2**31)
    with_4_bits = chance.random() < 0.5
    cells = numbers(
        chance, 2, config.n_layer, blocks, config.n_kv_head, TOKENS, config.head_dim
    ).to(dtype)
    first = chance.randint(0, tokens)
    rows = slice(first, chance.randint(first, tokens))
    places = torch.tensor([chance.randrange(256) for _ in range(tokens)], dtype=torch.long)
    for kernel in kernels():
        model = Transformer(config).eval()
        model.init_weights(torch.Generator().manual_seed(seed))
        angles = model.positions.angles(places, x.device)
        in_kinds(model, kernel, random.Random(seed) if with_4_bits else None)
        module = model.blocks[0]
        assert isinstance(module, QuantizedBlocks)
        packed = module.packed(lora)
        for count in (1, 2):
            torch.set_num_threads(count)
            keys, values = cells.clone()
            cache = PagedCache(kernel, keys, values, config.n_head // config.n_kv_head)
            out = module.network(x, Plan(cache, segments), angles, [(packed, rows)])
            goal = out if goal is None else goal
            assert same(out, goal)


def test_fuzz() -> None:
    """For a minute. The seed that fails is in the message: `linear(random.Random(seed))`."""
    start, seed, tries = time.monotonic(), 0, (linear, gelu, attention, network)
    while time.monotonic() - start < SECONDS:
        for tried in tries:
            try:
                tried(random.Random(seed))
            except BaseException as error:
                raise AssertionError(f"{tried.__name__}(random.Random({seed}))") from error
        seed += 1
    assert seed > 10


@pytest.mark.parametrize("rank", [0, 1, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64])
def test_ranks(rank: int) -> None:
    for seed in range(4):
        network(random.Random(1000 * rank + seed), rank)
