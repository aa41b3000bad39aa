"""Attention: of whole sequences, as training and evaluation run it, or over cached keys and values.

Without a cache, on a GPU this is PyTorch's fused attention. On a CPU that one loses most of its
time outside of matrix products (forward and backward take some 2.5 times as long as here: PyTorch
2.13, bf16, 8 × 6 heads × 512 tokens). The CPU therefore has a plain one: queries in blocks, each
against the keys up to its end, so that little above the diagonal is computed; all products are
batched. Query heads that share keys are the rows of one product.
"""

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.architecture import Architecture
from model.fused import RMSNorm
from model.positions import Angles, rotate
from model.projection import Adapts, Projection

_BLOCK = 128
"""Queries of one product: smaller ones waste less above the diagonal, larger multiply faster."""


class Attends(Protocol):
    """Attention over cached keys and values; `CacheStep` is one."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(tokens, head, head_dim); the heads of `key` and `value` may be fewer."""


class Attention(nn.Module):
    """Attention in which a token sees itself and those before it."""

    def __init__(self, config: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = dropout
        self.heads, self.head_dim = config.n_head, config.head_dim
        parts = {"q": config.query_width, "k": config.kv_width, "v": config.kv_width}
        self.widths = list(parts.values())
        path = f"blocks.{layer}.attention"
        self.qkv = Projection(f"{path}.qkv", config.n_embd, parts, bias=config.bias != "none")
        self.out = Projection(
            f"{path}.out", config.query_width, {"out": config.n_embd}, bias=config.bias == "all"
        )
        self.q_norm, self.k_norm = (
            HeadNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
            for _ in "qk"
        )
        self.rotate = _keep if config.rope is None else rotate

    def forward(
        self, x: Tensor, angles: Angles | None, cache: Attends | None, adapters: Adapts | None
    ) -> Tensor:
        # three of (…, head, head_dim)
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in self.qkv(x, adapters).split(self.widths, dim=-1)
        )
        query = self.rotate(self.q_norm(query), angles)
        key = self.rotate(self.k_norm(key), angles)
        if cache is None:
            y = causal_attention(query, key, value, self.dropout if self.training else 0.0)
        else:
            y = cache.attend(self.layer, query, key, value)
        out: Tensor = self.out(y.flatten(-2), adapters)
        return out


class HeadNorm(RMSNorm):
    """RMS norm of each head, in the precision of its own weights: under autocast queries and keys
    come in another one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def _keep(x: Tensor, angles: Angles | None) -> Tensor:
    return x


def causal_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """Softmax(QKᵀ / sqrt(head_dim)) V, each position seeing itself and those before it.

    Args:
        query: (batch, time, head, head_dim)
        key, value: (batch, time, kv_head, head_dim); query head h sees head h // (head / kv_head).
        dropout: probability that a weight of the attention is dropped.

    Returns:
        (batch, time, head, head_dim)
    """
    # PyTorch's compiler breaks what is written by hand here, for several sequences with rotary
    # positions (2.13: "Attempting to broadcast a dimension").
    if query.device.type == "cpu" and not dropout and not torch.compiler.is_compiling():
        out: Tensor = _BlockwiseAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return out
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    y = F.scaled_dot_product_attention(
        query,
        key,
        value,
        dropout_p=dropout,
        is_causal=True,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return y.transpose(1, 2)


class _BlockwiseAttention(torch.autograd.Function):
    """Keeps the attention's weights for the backward pass, if there is to be one: batch × head ×
    time² / 2 of them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        time, heads, dim = query.shape[1:]
        group = heads // key.shape[2]
        # Per key head: (batch × kv_head, group, time, head_dim), and without a group
        query = _by_head(query).view(-1, group, time, dim) / math.sqrt(dim)
        key, value = _by_head(key), _by_head(value)
        above = torch.full((_BLOCK, _BLOCK), -math.inf, dtype=query.dtype).triu(1)
        out = torch.empty_like(query)
        weights = []
        for start in range(0, time, _BLOCK):
            end = min(start + _BLOCK, time)
            rows = query[:, :, start:end].flatten(1, 2)
            scores = torch.bmm(rows, key[:, :end].transpose(1, 2))
            diagonal = scores.view(len(key), group, end - start, end)[..., start:]
            diagonal += above[: end - start, : end - start]
            weight = torch.softmax(scores, dim=-1)
            of_block = out[:, :, start:end]
            of_block.copy_(torch.bmm(weight, value[:, :end]).view_as(of_block))
            if any(ctx.needs_input_grad):
                weights.append(weight)
        ctx.save_for_backward(query, key, value, *weights)
        return _by_token(out.view(-1, time, dim), heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *weights = ctx.saved_tensors
        kv_heads, _, time, dim = query.shape
        batch, heads = grad.shape[0], grad.shape[2]
        grad = _by_head(grad).view_as(query)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for start, weight in zip(range(0, time, _BLOCK), weights, strict=True):
            end = min(start + _BLOCK, time)
            grad_out = grad[:, :, start:end].flatten(1, 2)
            grad_value[:, :end].baddbmm_(weight.transpose(1, 2), grad_out)
            grad_weight = torch.bmm(grad_out, value[:, :end].transpose(1, 2))
            grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            of_block = grad_query[:, :, start:end]
            of_block.copy_(torch.bmm(grad_score, key[:, :end]).view_as(of_block))
            rows = query[:, :, start:end].flatten(1, 2)
            grad_key[:, :end].baddbmm_(grad_score.transpose(1, 2), rows)
        grad_query /= math.sqrt(dim)
        return (
            _by_token(grad_query.view(-1, time, dim), heads),
            _by_token(grad_key, kv_heads // batch),
            _by_token(grad_value, kv_heads // batch),
        )


def _by_head(x: Tensor) -> Tensor:
    """(batch, time, head, head_dim) -> (batch × head, time, head_dim)"""
    return x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _by_token(x: Tensor, heads: int) -> Tensor:
    """(batch × head, time, head_dim) -> (batch, time, head, head_dim)"""
    return x.view(-1, heads, *x.shape[1:]).transpose(1, 2)
