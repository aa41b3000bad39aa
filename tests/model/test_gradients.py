"""The kernels of training, on each path: values and gradients as autograd has them in fp64."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu import gradients, library
from model.cpu.library import Kernel
from training.objectives import cross_entropy


@pytest.fixture(params=library.PATHS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    try:
        found = library.load(request.param)
    except ValueError:
        pytest.skip(f"this processor has no {request.param}")
    if found is None:
        pytest.skip("the C kernels were not compiled when the package was installed")
    return found


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


pytestmark = pytest.mark.usefixtures("threads")
kinds = pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 4e-3)])
# Numbers of a row that no vector divides, and rows enough for a second thread to begin.
shapes = pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (5, 48), (700, 97)])


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)


def assert_near(found: Tensor, exact: Tensor, dtype: torch.dtype, bound: float) -> None:
    assert found.dtype == dtype
    assert found.shape == exact.shape
    assert (found.double() - exact).norm() <= bound * exact.norm() + 1e-12


def exact(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient in fp64."""
    wide = x.double().requires_grad_()
    value = function(wide)
    return value.detach(), torch.autograd.grad(value, wide, grad.double())[0]


@kinds
@shapes
@pytest.mark.parametrize("out", [torch.float32, torch.bfloat16])
def test_rms_norm(
    kernel: Kernel, rows: int, width: int, dtype: torch.dtype, bound: float, out: torch.dtype
) -> None:
    x, weight = drawn(rows, width, dtype=dtype), drawn(width, seed=1)
    grad = drawn(rows, width, dtype=out, seed=2)
    y, inverse = gradients.rms_norm(kernel, x, weight, 1e-5, out)
    value, of_x = exact(lambda x: F.rms_norm(x, (width,), weight.double(), 1e-5), x, grad)
    assert_near(y, value, out, 4e-3 if out == torch.bfloat16 else 2e-6)
    found = gradients.rms_norm_gradient(kernel, grad, x, weight, inverse)
    if width > 1:  # of one number the gradient is all but nothing
        assert_near(found, of_x, dtype, 4 * bound)


@kinds
@shapes
def test_swiglu(kernel: Kernel, rows: int, width: int, dtype: torch.dtype, bound: float) -> None:
    both, grad = 4 * drawn(rows, 2 * width, dtype=dtype), drawn(rows, width, dtype=dtype, seed=1)

    def formula(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    value, of_both = exact(formula, both, grad)
    assert_near(gradients.swiglu(kernel, both), value, dtype, bound)
    assert_near(gradients.swiglu_gradient(kernel, grad, both), of_both, dtype, bound)


@pytest.mark.parametrize("far", [-200.0, 200.0, float("inf"), float("nan")])
def test_far_numbers_are_what_torch_makes_of_them(kernel: Kernel, far: float) -> None:
    both = torch.tensor([[far, 1.0, 2.0, 3.0]])
    expected = F.silu(both[:, :2]) * both[:, 2:]
    torch.testing.assert_close(gradients.swiglu(kernel, both), expected, equal_nan=True)


@kinds
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dim", [2, 6, 64])
@pytest.mark.parametrize("each", [False, True])
def test_turn(
    kernel: Kernel, dtype: torch.dtype, bound: float, sign: int, dim: int, each: bool
) -> None:
    """As heads stand in the output of a projection, and in a gradient by heads; with the angles of
    a run of positions, or of each row's own."""
    batch, time, heads = 3, 40, 5
    angles = drawn(*((batch,) if each else ()), time, 1, dim // 2, seed=1)
    cosines, sines = angles.cos(), angles.sin()

    def formula(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        sine, cosine = sign * sines.double(), cosines.double()
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)

    stands = [
        drawn(batch, time, 3 * heads * dim, dtype=dtype)[..., : heads * dim].unflatten(
            -1, (heads, dim)
        ),
        drawn(batch, heads, time, dim, dtype=dtype).transpose(1, 2),
        drawn(batch, time, heads, dim, 2, dtype=dtype)[..., 0],
    ]
    for x in stands:
        found = gradients.turn(kernel, x, cosines, sines, sign)
        assert found.is_contiguous()
        assert_near(found, formula(x.double()), dtype, bound)


def test_turn_of_flat_tokens(kernel: Kernel) -> None:
    x, angles = drawn(7, 2, 8), drawn(7, 1, 4, seed=1)
    there = gradients.turn(kernel, x, angles.cos(), angles.sin(), 1)
    back = gradients.turn(kernel, there, angles.cos(), angles.sin(), -1)
    assert there.shape == x.shape
    torch.testing.assert_close(back, x)


@kinds
@pytest.mark.parametrize(("rows", "width"), [(1, 2), (3, 7), (9, 50257)])
def test_cross_entropy(
    kernel: Kernel, rows: int, width: int, dtype: torch.dtype, bound: float
) -> None:
    logits, losses = 3 * drawn(rows, width, dtype=dtype), torch.empty(rows)
    targets = torch.arange(rows) * 31 % width
    targets[-1] = width - 1
    value, gradient = exact(
        lambda x: F.cross_entropy(x, targets, reduction="none"), logits, torch.ones(rows)
    )
    gradients.cross_entropy(kernel, logits, targets, losses)
    assert_near(losses, value, torch.float32, 2e-6)
    assert_near(logits, gradient, dtype, bound)


def test_without_a_compiler_the_losses_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for loaded in (library.load(), None):
        monkeypatch.setattr(cross_entropy, "load", lambda loaded=loaded: loaded)
        logits, losses = drawn(600, 991), torch.empty(600)
        cross_entropy._to_gradient(logits, torch.arange(600), losses)
        found += [logits, losses]
    torch.testing.assert_close(found[:2], found[2:], rtol=1e-5, atol=1e-6)


def test_what_c_would_take_for_granted_is_refused(kernel: Kernel) -> None:
    x, weight = drawn(2, 8), drawn(8)
    y, inverse = gradients.rms_norm(kernel, x, weight, 1e-5, torch.float32)
    losses, targets = torch.empty(2), torch.tensor([0, 7])
    angles, wide = drawn(1, 1, 4), weight.double()
    refused: list[tuple[str, Callable[[], object]]] = [
        ("8 numbers in fp32", lambda: gradients.rms_norm(kernel, x, weight[:7], 1e-5, x.dtype)),
        (
            "8 numbers in fp32",
            lambda: gradients.rms_norm(kernel, x, wide, 1e-5, x.dtype),
        ),
        ("float64", lambda: gradients.rms_norm(kernel, x.double(), weight, 1e-5, x.dtype)),
        ("contiguous", lambda: gradients.rms_norm(kernel, drawn(8, 2).T, weight, 1e-5, x.dtype)),
        ("shape of x", lambda: gradients.rms_norm_gradient(kernel, y[:1], x, weight, inverse)),
        ("2 numbers", lambda: gradients.rms_norm_gradient(kernel, y, x, weight, inverse[:1])),
        ("stand in a row", lambda: gradients.swiglu(kernel, drawn(2, 7))),
        ("another shape", lambda: gradients.swiglu_gradient(kernel, y, drawn(2, 8))),
        (
            "rows of fp32",
            lambda: gradients.turn(kernel, x[None, :, None], angles.double(), angles, 1),
        ),
        ("a target", lambda: gradients.cross_entropy(kernel, x, targets[:1], losses)),
        ("from 0 to 7", lambda: gradients.cross_entropy(kernel, x, targets + 1, losses)),
        ("from 0 to 7", lambda: gradients.cross_entropy(kernel, x, targets - 1, losses)),
        ("2 numbers", lambda: gradients.cross_entropy(kernel, x, targets, losses[:1])),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()
