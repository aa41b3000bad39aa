"""8- and 4-bit layers: every path exact, equal to the others bit for bit, and close to fp32."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu import library, quantize
from model.cpu.linear import PackedLinear, group_scales, nested
from model.cpu.quantize import Layer, TorchLinear, fused
from tests.model.layers import FOUR_BITS, KINDS, kernel_or_skip, normal, numbers_of

SHAPES = [(1, 1), (4, 1), (7, 5), (32, 96), (50, 257), (384, 384), (768, 130), (3072, 64)]
"""(in, out); few are multiples of the tile's 4 inputs and 64 channels."""
FORMS = [*library.PATHS, "torch", "torch without _int_mm"]

Pack = Callable[[Tensor, Tensor, Tensor | None], Layer]


@pytest.fixture(params=FORMS)
def pack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Makes a layer of values, scale and bias, in each form that runs here."""
    form: str = request.param
    if form in library.PATHS:
        kernel = kernel_or_skip(form)
        return partial(PackedLinear, kernel)
    if form == "torch without _int_mm":
        monkeypatch.setattr(quantize, "int_mm_is_exact", lambda: False)
    return TorchLinear


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def new_layer(
    pack: Pack, inputs: int, outputs: int, kind: str = "plain"
) -> tuple[Layer, Tensor, Tensor]:
    weight, bias = normal(outputs, inputs), normal(outputs, seed=1)
    return pack(*numbers_of(weight, kind), bias), weight, bias


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("extreme", [False, True])
def test_sums_are_exact(pack: Pack, inputs: int, outputs: int, extreme: bool) -> None:
    """Bytes times whole numbers with both scales 1: the output is the integer sum itself."""
    generator = torch.Generator().manual_seed(inputs)
    if extreme:  # where 16 bits overflow, and 24
        x = 255.0 - torch.randint(0, 2, (9, inputs), generator=generator)
        sign = torch.randint(0, 2, (outputs, 1), generator=generator) * 2 - 1
        size = 127 - torch.randint(0, 2, (outputs, inputs), generator=generator)
        values = (sign * size).to(torch.int8)
    else:
        x = torch.randint(0, 256, (9, inputs), generator=generator).float()
        values = torch.randint(-127, 128, (outputs, inputs), generator=generator).to(torch.int8)
    x[:, 0] = 255.0  # the range is then [0, 255] and the step 1
    y = pack(values, torch.ones(outputs), None)(x)
    assert torch.equal(y, (x.long() @ values.long().T).float())


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_bits(pack: Pack, inputs: int, outputs: int, kind: str) -> None:
    x = normal(23, inputs, seed=2) * torch.logspace(-20, 20, 23)[:, None]
    ours = new_layer(pack, inputs, outputs, kind)[0](x)
    assert torch.equal(ours, new_layer(TorchLinear, inputs, outputs, kind)[0](x))


@pytest.mark.parametrize("part", [0, 1, None])
def test_every_scale_and_minimum_in_fp16(pack: Pack, part: int | None) -> None:
    """Subnormal ones too, and what is no number: in products and in rows that are looked up.

    `part`: the scale or the minimum of 4 bits; None is the scale of 8 bits.
    """
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    scale = torch.ones(2**16, 2, 2, dtype=torch.float16)
    scale[:, 1, part or 0] = bits
    values = (torch.arange(2**16)[:, None] + torch.arange(50)).to(torch.uint8) % 16
    if part is None:
        scale, values = scale[..., 0].contiguous(), values.to(torch.int8) - 8
    layer, x = pack(values, scale, None), normal(3, 50)
    of_inputs = scale.float().repeat_interleave(32, 1)[:, :50]
    goal = values * of_inputs if part is None else values * of_inputs[..., 0] + of_inputs[..., 1]
    assert torch.equal(layer.rows(torch.arange(2**16)).nan_to_num(), goal.nan_to_num())
    assert torch.equal(layer(x).nan_to_num(), TorchLinear(values, scale, None)(x).nan_to_num())


@pytest.mark.parametrize("part", [0, 1])
def test_every_nested_scale_and_minimum(pack: Pack, part: int) -> None:
    """Any number in fp16 times any byte: the product is exact, or no number."""
    outer = torch.ones(2**16, 2, 2, dtype=torch.float16)
    outer[:, 1, part] = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    inner = (torch.arange(2**16 * 32) % 251).to(torch.uint8).view(2**16, 2, 2, 8)
    values = (torch.arange(2**16)[:, None] + torch.arange(300)).to(torch.uint8) % 16
    scale, x = nested(outer, inner), normal(3, 300)
    products = (outer[..., None].double() * inner).transpose(2, 3).flatten(1, 2)
    of_inputs = products.repeat_interleave(32, 1)[:, :300].float()
    layer, goal = pack(values, scale, None), values * of_inputs[..., 0] + of_inputs[..., 1]
    assert torch.equal(layer.rows(torch.arange(2**16)).nan_to_num(), goal.nan_to_num())
    assert torch.equal(layer(x).nan_to_num(), TorchLinear(values, scale, None)(x).nan_to_num())


@pytest.mark.parametrize("able", range(1, 2 ** len(library.PATHS), 2))
def test_the_fastest_path_that_the_processor_has(
    able: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's may have AVX-512 VNNI without AVX-VNNI, a desktop's the other way round."""
    kernel = kernel_or_skip()
    monkeypatch.setattr(kernel.library, "int8_paths", lambda: able)
    monkeypatch.setattr(library.ctypes, "CDLL", lambda name: kernel.library)
    load = library.load.__wrapped__
    found = [name for bit, name in enumerate(library.PATHS) if able & 1 << bit]
    assert library.PATHS[load().path] == found[-1]
    for name in library.PATHS:
        if name in found:
            assert library.PATHS[load(name).path] == name
        else:
            with pytest.raises(ValueError, match=f"path '{name}' is none of {', '.join(found)}$"):
                load(name)


@pytest.mark.parametrize("path", library.PATHS)
def test_gelu(path: str) -> None:
    """Within 1e-6 of the exact value, and the same bits on every path and at every place."""
    kernel, portable = kernel_or_skip(path), kernel_or_skip("portable")
    special = torch.tensor([0.0, 1e30, -1e30, 1e-40, torch.inf, torch.nan])
    x = torch.cat([torch.linspace(-12, 12, 100_003), special])
    y = kernel.gelu(x.clone())
    exact = F.gelu(x.double(), approximate="tanh")
    assert torch.all((y - exact).abs()[:-4] <= 1e-6 * exact.abs()[:-4].clamp(min=1))
    assert y[-2] == torch.inf
    assert y[-1].isnan()
    assert torch.equal(y[:-1], portable.gelu(x.clone())[:-1])
    for start, end in ((0, 1), (5, 22), (99_999, 100_001)):
        assert torch.equal(kernel.gelu(x[start:end].clone()), y[start:end])


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_the_error_is_that_of_rounding(pack: Pack, inputs: int, outputs: int) -> None:
    """At most half a step in each activation, and half a scale in each weight."""
    layer, weight, bias = new_layer(pack, inputs, outputs)
    x = normal(16, inputs, seed=3)
    x[0] = x[0].abs() + 3  # all on one side of zero
    x[1:9] = x[1:9].sign() * torch.arange(1, 9)[:, None]  # symmetric ranges
    step = (x.amax(1).clamp(min=0) - x.amin(1).clamp(max=0))[:, None] / 255
    scale = weight.abs().amax(1) / 127
    exact = x.double() @ weight.double().T + bias
    bound = x.abs().sum(1, keepdim=True) * scale / 2 + step / 2 * weight.abs().sum(1)
    bound += inputs * step * scale / 4
    assert torch.all((layer(x) - exact).abs() <= 1.001 * bound + 1e-5)
    # And the typical error is far smaller.
    if inputs >= 32:
        assert (layer(x) - exact).norm() < 0.015 * exact.norm()


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_in_groups_an_outlier_costs_its_neighbours_nothing(
    pack: Pack, inputs: int, outputs: int
) -> None:
    """Each number and each weight is off by half a step of its own group."""
    layer, weight, bias = new_layer(pack, inputs, outputs, "grouped")
    x = normal(9, inputs, seed=3)
    x[1:, 0] *= 1000
    weight_off = whole_groups(weight).abs().amax(-1, keepdim=True) * (0.5 + 2**-8) / 127
    step = whole_groups(x).abs().amax(-1, keepdim=True) / 127
    weights = whole_groups(weight).abs() + weight_off
    off = torch.einsum("rgi,ogi->ro", whole_groups(x).abs(), weight_off.expand_as(weights))
    off += torch.einsum("rgi,ogi->ro", (step / 2).expand(-1, -1, 32), weights)
    exact = x.double() @ weight.double().T + bias
    assert torch.all((layer(x) - exact).abs() <= 1.001 * off + 1e-4)
    if inputs >= 32:
        assert (layer(x) - exact).norm(dim=1).max() < 0.015 * exact.norm(dim=1).max()
    if inputs > 64:  # most of a row is in other groups than its outlier
        plain = new_layer(pack, inputs, outputs)[0]
        assert (layer(x) - exact)[1:].norm() < (plain(x) - exact)[1:].norm()


def whole_groups(x: Tensor) -> Tensor:
    """(rows, inputs) -> (rows, groups, 32)"""
    return F.pad(x, (0, -x.shape[1] % 32)).view(len(x), -1, 32)


def test_fused_is_rounded_once() -> None:
    """The square of 1 + 2^-12 is halfway between two numbers of fp32, and 2^-70 decides; in fp64 it
    is lost."""
    half = 1 + 2.0**-12
    a = torch.tensor([half, half, half, -half, -half, 3e38, 1.0, *normal(200).tolist()])
    b = torch.tensor([half, half, half, half, half, 10.0, torch.nan, *normal(200, seed=1).tolist()])
    c = torch.tensor([2.0**-70, -(2.0**-70), 0.0, 2.0**-70, -(2.0**-70), 0.0, 0.0])
    c = torch.cat([c, -(a * b)[7:]])  # what the product lost is left
    found = fused(a, b, c)
    assert found[5] == torch.inf
    assert found[6].isnan()
    for x, y, z, sum_ in zip(*(t.tolist() for t in (a, b, c, found)), strict=True):
        if math.isfinite(x * y) and math.isfinite(sum_):
            assert sum_ == nearest(Fraction(x) * Fraction(y) + Fraction(z))


def nearest(number: Fraction) -> float:
    """The number in fp32 that is nearest, of two the even one."""
    exponent = -149
    while abs(number) / Fraction(2) ** exponent >= 2**24:
        exponent += 1
    return float(round(number / Fraction(2) ** exponent) * Fraction(2) ** exponent)


@pytest.mark.parametrize("kind", FOUR_BITS)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_of_4_bits_the_activations_alone_are_rounded(
    pack: Pack, inputs: int, outputs: int, kind: str
) -> None:
    """By at most half a step of each group, whose outlier is no other's."""
    layer, _, bias = new_layer(pack, inputs, outputs, kind)
    weight = layer.rows(torch.arange(outputs))
    x = normal(9, inputs, seed=3)
    x[1:, 0] *= 1000
    step = whole_groups(x).abs().amax(-1, keepdim=True) / 127
    off = torch.einsum("rgi,ogi->ro", (step / 2).expand(-1, -1, 32), whole_groups(weight).abs())
    exact = x.double() @ weight.double().T + bias
    assert torch.all((layer(x) - exact).abs() <= 1.001 * off + 1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 96), (50, 257), (768, 130)])
def test_a_row_does_not_depend_on_its_neighbours(
    pack: Pack, inputs: int, outputs: int, kind: str
) -> None:
    layer = new_layer(pack, inputs, outputs, kind)[0]
    x = normal(64, inputs, seed=4)
    x[::3] *= 1000  # a scale for the whole batch would drown the other rows
    together = layer(x)
    for rows in (1, 2, 7, 17):
        for start in range(0, 64 - rows + 1, 5):
            part = slice(start, start + rows)
            assert torch.equal(layer(x[part]), together[part]), (rows, start)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_nothing(pack: Pack, rows: int, kind: str) -> None:
    layer = new_layer(pack, 384, 1000, kind)[0]  # enough work for two
    x = normal(rows, 384, seed=5)
    two = layer(x)
    torch.set_num_threads(1)
    assert torch.equal(layer(x), two)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_rows(pack: Pack, kind: str) -> None:
    layer, weight, bias = new_layer(pack, 50, 70, kind)
    x = normal(8, 50, seed=6)
    x[1], x[2], x[3], x[4] = 0, 3.0, -3.0, x[4] * 1e-38
    x[5, 7], x[6, 8], x[7, 9] = torch.inf, torch.nan, -torch.inf
    y = layer(x)
    assert torch.equal(y[1], bias)
    assert torch.equal(y[4], bias)
    for row, value in ((2, 3.0), (3, -3.0)):  # a constant row is exact but for its weights
        goal = F.linear(torch.full((50,), value), weight, bias)
        step = weight.abs().max() * (2 / 15 if kind in FOUR_BITS else 1 / 127)
        assert (y[row] - goal).abs().max() < 50 * 3 * step / 2
    assert y[:5].isfinite().all()
    assert y[5:].isnan().all()
    assert torch.equal(layer(x[:1]), y[:1])
    largest = torch.finfo(torch.float32).max
    assert layer(torch.tensor([[largest, -largest] * 25])).shape == (1, 70)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_and_tiny_weights(pack: Pack, kind: str) -> None:
    weight = normal(5, 8)
    weight[1], weight[2] = 0, 1e-40
    y = pack(*numbers_of(weight, kind), None)(normal(3, 8, seed=1))
    assert torch.equal(y[:, 1:3], torch.zeros(3, 2))
    assert y.isfinite().all()


def test_shapes_and_types_of_rows(pack: Pack) -> None:
    layer = new_layer(pack, 50, 70)[0]
    x = normal(4, 3, 50)
    y = layer(x)
    assert y.shape == (4, 3, 70)
    assert torch.equal(layer(x[1, 2]), y[1, 2])
    assert torch.equal(layer(x.transpose(0, 1)), y.transpose(0, 1))
    assert torch.equal(layer(x.bfloat16()), layer(x.bfloat16().float()))
    assert layer(x[:0]).shape == (0, 3, 70)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_weights_are_looked_up(pack: Pack, kind: str) -> None:
    weight = normal(130, 50)
    values, scale = numbers_of(weight, kind)
    tokens = torch.tensor([[0, 63, 64], [129, 128, 0]])
    rows = pack(values, scale, None).rows(tokens)
    wide = group_scales(scale).float()
    of_inputs = wide[:, None] if kind == "plain" else wide.repeat_interleave(32, 1)[:, :50]
    of_inputs, least = of_inputs.unbind(-1) if kind in FOUR_BITS else (of_inputs, 0)
    assert torch.equal(rows, (values * of_inputs + least)[tokens])
    with pytest.raises(IndexError):
        pack(values, scale, None).rows(torch.tensor([0, 130]))
    steps = 15 / 2 if kind in FOUR_BITS else 127
    half = weight.abs().amax(1, keepdim=True) / steps / 2
    rounded = 1.05 if kind == "nested" else 1.01  # the scale itself
    assert torch.all((rows - weight[tokens]).abs() <= rounded * half[tokens])


def test_numbers_that_are_no_layer_are_refused() -> None:
    kernel, values, scale = kernel_or_skip(), *numbers_of(normal(5, 50), "nibbles")
    of_super = numbers_of(normal(5, 50), "nested")[1]
    for wrong in (
        (values + 15, scale),
        (values, scale.bfloat16()),
        (values, scale[..., 0]),
        (values, scale[:, :1]),
        (values.view(torch.int8), scale),
        (values, of_super[..., :19]),
        (values, of_super.repeat(1, 2, 1)),
    ):
        with pytest.raises(ValueError, match=r"4 bits|no kind|scale is"):
            PackedLinear(kernel, *wrong, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [2, 130, 256])
def test_in_pairs_it_is_the_same(kind: str, outputs: int) -> None:
    values, scale = numbers_of(normal(outputs, 50), kind)
    plain, paired = (
        PackedLinear(kernel_or_skip(), values, scale, normal(outputs), paired=paired)
        for paired in (False, True)
    )
    assert torch.equal(plain(normal(5, 50, seed=1)), paired(normal(5, 50, seed=1)))


def test_the_fallback_is_exact_where_int_mm_is_not() -> None:
    """oneDNN held to AVX2, as on a processor without VNNI: `_int_mm` is then wrong, in silence."""
    script = (
        "import torch; from model.cpu.quantize import exact_product, int_mm_is_exact\n"
        "x = torch.full((16, 768), 255, dtype=torch.uint8)\n"
        "w = torch.full((64, 768), 127, dtype=torch.int8)\n"
        "assert (exact_product(x, w) == 768 * 255 * 127).all()\n"
        "a = w[:16]; wrong = (torch._int_mm(a, w.T) != 768 * 127 * 127).any()\n"
        "assert not (wrong and int_mm_is_exact())\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
