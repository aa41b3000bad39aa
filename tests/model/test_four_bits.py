"""What floats become in 4 bits."""

import pytest
import torch
from torch import Tensor

from model.cpu.four_bits import quantize_weight
from model.cpu.quantize import numbers
from tests.model.layers import in_nibbles, normal

SHAPES = [(1, 1), (7, 5), (40, 96), (3, 100), (1030, 64)]
"""(out, in)"""


def error_of(weight: Tensor, values: Tensor, scale: Tensor) -> float:
    """RMS, as a share of the weights'."""
    return float((numbers(values, scale) - weight).norm() / weight.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_types(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = normal(*shape).to(dtype)
    values, scale = quantize_weight(weight)
    assert (values.shape, values.dtype) == (shape, torch.uint8)
    assert int(values.max()) <= 15
    assert (scale.shape, scale.dtype) == ((shape[0], -(-shape[1] // 32), 2), torch.float16)
    assert error_of(weight.float(), values, scale) < 0.08


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_error_is_smaller_than_from_the_least_to_the_largest(power: float) -> None:
    """For weights that lie close together, and for those with outliers."""
    weight = normal(64, 512)
    weight = weight.sign() * weight.abs() ** power
    assert error_of(weight, *quantize_weight(weight)) < 0.97 * error_of(weight, *in_nibbles(weight))


def test_nothing_is_lost_of_what_has_4_bits() -> None:
    values, scale = in_nibbles(normal(64, 512))
    weight = numbers(values, scale)
    assert torch.equal(numbers(*quantize_weight(weight)), weight)


def test_groups_depend_on_no_others() -> None:
    weight = normal(70, 96)
    values, scale = quantize_weight(weight)
    for rows, group in ((slice(0, 1), 0), (slice(5, 70), 2)):
        part = quantize_weight(weight[rows, 32 * group : 32 * group + 32])
        assert torch.equal(part[0], values[rows, 32 * group : 32 * group + 32])
        assert torch.equal(part[1], scale[rows, group : group + 1])


def test_weights_without_a_range() -> None:
    weight = torch.tensor([[0.0], [1e-40], [-0.5]]).expand(3, 32)
    found = numbers(*quantize_weight(weight))
    assert torch.equal(found, torch.tensor([[0.0], [0.0], [-0.5]]).expand(3, 32))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e6])
def test_what_is_no_number_in_fp16_shows(bad: float) -> None:
    weight = normal(3, 64)
    weight[1, 40] = bad
    found = numbers(*quantize_weight(weight))
    assert found[[0, 2]].isfinite().all()
    assert found[1, :32].isfinite().all()
    assert not found[1, 32:].isfinite().any()
