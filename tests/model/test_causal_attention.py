"""Attention of whole sequences: the plain one of the CPU equals PyTorch's, gradients too."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.causal_attention import causal_attention

HEADS = 3


def random_qkv(time: int, dtype: torch.dtype) -> Tensor:
    """(2, time, 3 × 24)"""
    generator = torch.Generator().manual_seed(time)
    return torch.randn(2, time, 72, generator=generator).to(dtype).requires_grad_()


def reference(qkv: Tensor) -> Tensor:
    query, key, value = qkv.view(2, -1, 3, HEADS, 8).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return y.transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("time", [1, 2, 127, 128, 129, 300])
def test_values_and_gradients_are_those_of_pytorch(time: int) -> None:
    """At, below and above the ends of blocks."""
    ours, theirs = random_qkv(time, torch.float64), random_qkv(time, torch.float64)
    weights = torch.randn(2, time, 24, dtype=torch.float64)
    found, wanted = causal_attention(ours, HEADS), reference(theirs)
    torch.testing.assert_close(found, wanted)
    found.backward(weights)  # type: ignore[no-untyped-call]
    wanted.backward(weights)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_bf16_is_as_near_to_the_truth_as_pytorchs() -> None:
    truth, errors = random_qkv(300, torch.bfloat16), []
    weights = torch.randn(2, 300, 24)
    exact = truth.detach().double().requires_grad_()
    reference(exact).backward(weights.double())  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    for attend in (lambda qkv: causal_attention(qkv, HEADS), reference):
        qkv = truth.detach().clone().requires_grad_()
        attend(qkv).backward(weights.bfloat16())  # type: ignore[no-untyped-call]
        assert qkv.grad is not None
        errors.append((qkv.grad - exact.grad).pow(2).mean().sqrt().item())
    assert errors[0] < 1.5 * errors[1]


def test_dropout_drops() -> None:
    qkv = random_qkv(40, torch.float32)
    torch.manual_seed(1)
    dropped = causal_attention(qkv, HEADS, dropout=0.5)
    assert not torch.allclose(dropped, causal_attention(qkv, HEADS))
