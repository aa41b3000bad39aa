"""Attention of whole sequences, without a cache: what training and evaluation run.

On a GPU this is PyTorch's fused attention. On a CPU that one loses most of its time outside of
matrix products (forward and backward take some 2.5 times as long as here: PyTorch 2.13, bf16, 8 × 6
heads × 512 tokens). The CPU therefore has a plain one: queries in blocks, each against the keys up
to its end, so that little above the diagonal is computed; all products are batched.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 128
"""Queries of one product: smaller ones waste less above the diagonal, larger multiply faster."""


def causal_attention(qkv: Tensor, n_head: int, dropout: float = 0.0) -> Tensor:
    """Softmax(QKᵀ / sqrt(head_dim)) V, each position seeing itself and those before it.

    Args:
        qkv: (batch, time, 3 × n_embd): queries, keys and values beside each other.
        dropout: probability that a weight of the attention is dropped.

    Returns:
        (batch, time, n_embd)
    """
    if qkv.device.type == "cpu" and not dropout:
        out: Tensor = _BlockwiseAttention.apply(qkv, n_head)  # type: ignore[no-untyped-call]
        return out
    # three of (batch, head, time, head_dim)
    batch, time, _ = qkv.shape
    query, key, value = qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
    return y.transpose(1, 2).flatten(-2)


class _BlockwiseAttention(torch.autograd.Function):
    """Keeps the attention's weights for the backward pass: batch × head × time² / 2 of them."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_head: int) -> Tensor:
        batch, time, width = qkv.shape
        # (3, batch × head, time, head_dim)
        query, key, value = (
            qkv.view(batch, time, 3, n_head, -1)
            .permute(2, 0, 3, 1, 4)
            .reshape(3, batch * n_head, time, -1)
        )
        query = query / math.sqrt(query.shape[-1])
        above = torch.full((_BLOCK, _BLOCK), -math.inf, dtype=qkv.dtype).triu(1)
        out = torch.empty_like(query)
        weights = []
        for start in range(0, time, _BLOCK):
            end = min(start + _BLOCK, time)
            scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2))
            scores[:, :, start:] += above[: end - start, : end - start]
            weights.append(torch.softmax(scores, dim=-1))
            out[:, start:end] = torch.bmm(weights[-1], value[:, :end])
        ctx.save_for_backward(query, key, value, *weights)
        ctx.n_head = n_head
        return out.view(batch, n_head, time, -1).transpose(1, 2).reshape(batch, time, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        query, key, value, *weights = ctx.saved_tensors
        heads, time, head_dim = query.shape
        batch = heads // ctx.n_head
        # (batch × head, time, head_dim)
        grad = grad.view(batch, time, ctx.n_head, -1).transpose(1, 2).reshape(query.shape)
        grads = query.new_zeros(3, heads, time, head_dim)
        grad_query, grad_key, grad_value = grads
        for start, weight in zip(range(0, time, _BLOCK), weights, strict=True):
            end = min(start + _BLOCK, time)
            grad_out = grad[:, start:end]
            grad_value[:, :end].baddbmm_(weight.transpose(1, 2), grad_out)
            grad_weight = torch.bmm(grad_out, value[:, :end].transpose(1, 2))
            grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            grad_query[:, start:end] = torch.bmm(grad_score, key[:, :end])
            grad_key[:, :end].baddbmm_(grad_score.transpose(1, 2), query[:, start:end])
        grad_query /= math.sqrt(head_dim)
        joined = grads.view(3, batch, ctx.n_head, time, head_dim).permute(1, 3, 0, 2, 4)
        return joined.reshape(batch, time, -1), None
