"""Attention of whole sequences: the plain one of the CPU equals PyTorch's, gradients too."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import causal_attention

HEADS = 6


def random_qkv(time: int, dtype: torch.dtype, kv_heads: int) -> Tensor:
    """Queries, keys and values beside each other: (2, time, heads, 8)"""
    generator = torch.Generator().manual_seed(time)
    heads = HEADS + 2 * kv_heads
    return torch.randn(2, time, heads, 8, generator=generator).to(dtype).requires_grad_()


def parts(qkv: Tensor) -> tuple[Tensor, ...]:
    kv_heads = (qkv.shape[2] - HEADS) // 2
    return qkv.split([HEADS, kv_heads, kv_heads], dim=2)


def reference(qkv: Tensor) -> Tensor:
    query, key, value = (part.transpose(1, 2) for part in parts(qkv))
    key, value = (part.repeat_interleave(HEADS // part.shape[1], 1) for part in (key, value))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)


@pytest.mark.parametrize("kv_heads", [6, 2, 1])
@pytest.mark.parametrize("time", [1, 2, 127, 128, 129, 300])
def test_values_and_gradients_are_those_of_pytorch(time: int, kv_heads: int) -> None:
    """At, below and above the ends of blocks, with a key for each query head or for several."""
    ours, theirs = (random_qkv(time, torch.float64, kv_heads) for _ in range(2))
    weights = torch.randn(2, time, HEADS, 8, dtype=torch.float64)
    found, wanted = causal_attention(*parts(ours)), reference(theirs)
    torch.testing.assert_close(found, wanted)
    found.backward(weights)  # type: ignore[no-untyped-call]
    wanted.backward(weights)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("kv_heads", [6, 2])
def test_bf16_is_as_near_to_the_truth_as_pytorchs(kv_heads: int) -> None:
    truth, errors = random_qkv(300, torch.bfloat16, kv_heads), []
    weights = torch.randn(2, 300, HEADS, 8)
    exact = truth.detach().double().requires_grad_()
    reference(exact).backward(weights.double())  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    for attend in (lambda qkv: causal_attention(*parts(qkv)), reference):
        qkv = truth.detach().clone().requires_grad_()
        attend(qkv).backward(weights.bfloat16())  # type: ignore[no-untyped-call]
        assert qkv.grad is not None
        errors.append((qkv.grad - exact.grad).pow(2).mean().sqrt().item())
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("kv_heads", [6, 2])
def test_dropout_drops(kv_heads: int) -> None:
    qkv = random_qkv(40, torch.float32, kv_heads)
    torch.manual_seed(1)
    dropped = causal_attention(*parts(qkv), dropout=0.5)
    assert not torch.allclose(dropped, causal_attention(*parts(qkv)))


def test_weights_are_let_go_where_no_gradient_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All together they are batch × head × time² / 2 numbers: gigabytes where a text is long."""
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    softmax = torch.softmax

    def counting(scores: Tensor, dim: int) -> Tensor:
        alive.append(sum(weight() is not None for weight in made))
        weight = softmax(scores, dim=dim)
        made.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(torch, "softmax", counting)
    qkv = random_qkv(600, torch.float32, 2)
    causal_attention(*parts(qkv))
    assert max(alive) == 4
    alive.clear()
    causal_attention(*parts(qkv.detach()))
    assert max(alive) == 1
