"""The GPT-2 network (Radford et al., 2019), for training and for serving.

Training gives it whole sequences, (batch, time). Serving gives it the new tokens of many sequences
in one flat dimension, (tokens,), with a `CacheStep` that knows which belong together. Adapters are
an argument of the call, never a change of the network: one copy of the weights then serves rows
with different adapters, or none, in one batch.

`GPT.forward` ends at the last layer norm; `GPT.logits` is a call of its own, because the output
layer is a large part of the work and most positions of a prompt never need it.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.causal_attention import causal_attention
from model.config import GPTConfig
from model.errors import ContextLengthError


class Attends(Protocol):
    """Attention over cached keys and values; `CacheStep` is one."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """All (tokens, head, head_dim)."""


class Adapts(Protocol):
    """Adapters of the rows of a batch; see `model.lora`."""

    def adapt(self, layer: str, x: Tensor, y: Tensor) -> Tensor:
        """`y`, the output of `layer` for `x`, with each row's adapter added."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, tile: int | None) -> Tensor:
    """x Wᵀ + b: (…, in) -> (…, out).

    Args:
        tile: rows of every product. A row's last bits depend on how many rows are multiplied at
            once; with a fixed number it gets the same bits in every batch. None takes all at once.
    """
    if tile is None:
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    tiles = F.pad(rows, (0, 0, 0, -len(rows) % tile)).view(-1, tile, x.shape[-1])
    y = x.new_empty(len(tiles), tile, len(weight))
    for given, out in zip(tiles, y, strict=True):
        out[:] = F.linear(given, weight, bias)
    return y.view(-1, len(weight))[: len(rows)].view(*x.shape[:-1], len(weight))


class Projection(nn.Linear):
    """A linear layer that an adapter can name."""

    def __init__(self, path: str, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.path = path
        self.tile: int | None = None

    def forward(self, x: Tensor, adapters: Adapts | None = None) -> Tensor:
        y = linear(x, self.weight, self.bias, self.tile)
        return y if adapters is None else adapters.adapt(self.path, x, y)


class TokenEmbedding(nn.Embedding):
    """The token embedding, which is the output head as well where the two are tied."""

    tile: int | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, n_embd) -> (…, vocab)"""
        return linear(hidden, self.weight, None, self.tile)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and those before it."""

    def __init__(self, config: GPTConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = dropout
        self.c_attn = Projection(f"h.{layer}.attn.c_attn", config.n_embd, 3 * config.n_embd)
        self.c_proj = Projection(f"h.{layer}.attn.c_proj", config.n_embd, config.n_embd)

    def forward(self, x: Tensor, cache: Attends | None, adapters: Adapts | None) -> Tensor:
        qkv = self.c_attn(x, adapters)
        if cache is None:
            y = causal_attention(qkv, self.n_head, self.dropout if self.training else 0.0)
        else:
            # (tokens, 3 × n_embd) -> three of (tokens, head, head_dim)
            query, key, value = qkv.unflatten(-1, (3, self.n_head, -1)).unbind(-3)
            y = cache.attend(self.layer, query, key, value).flatten(-2)
        out: Tensor = self.c_proj(y, adapters)
        return out


class MLP(nn.Module):
    """Two projections with the tanh form of GELU between them, as GPT-2 has it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.c_fc = Projection(f"h.{layer}.mlp.c_fc", config.n_embd, 4 * config.n_embd)
        self.act = nn.GELU(approximate="tanh")
        self.c_proj = Projection(f"h.{layer}.mlp.c_proj", 4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor, adapters: Adapts | None) -> Tensor:
        hidden = self.act(self.c_fc(x, adapters))
        out: Tensor = self.c_proj(hidden, adapters)
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a shortcut (pre-norm)."""

    def __init__(self, config: GPTConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.attn = CausalSelfAttention(config, layer, dropout)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config, layer)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: Attends | None, adapters: Adapts | None) -> Tensor:
        x = x + self.dropout(self.attn(self.ln_1(x), cache, adapters))
        out: Tensor = x + self.dropout(self.mlp(self.ln_2(x), adapters))
        return out


class GPT(nn.Module):
    """A decoder-only transformer.

    Args:
        config: its shape.
        dropout: of embeddings, attention and residual branches; acts in training mode only.
    """

    def __init__(self, config: GPTConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.quantized = False  # whether `model.quantize` has given it 8-bit weights
        self.wte = TokenEmbedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(config, i, dropout) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=1e-5)
        # An output head of its own exists only when it is not the input embedding.
        self.lm_head = (
            None if config.tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        )
        self.tile: int | None = None  # see `multiply_in_tiles`

    def init_weights(self, generator: torch.Generator) -> None:
        """GPT-2's initialisation: N(0, 0.02), residual projections scaled by 1/sqrt(2 n_layer)."""
        residual = 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                std = residual if name.endswith("c_proj.weight") else 0.02
                nn.init.normal_(parameter, 0.0, std, generator=generator)

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: Attends | None = None,
        adapters: Adapts | None = None,
    ) -> Tensor:
        """Hidden states after the last layer norm.

        Args:
            tokens: (batch, time), or (tokens,) with a cache.
            positions: position of each token; of the same shape as `tokens`. Needed with a cache.
            cache: attention over what earlier calls computed.
            adapters: each row's adapter.

        Returns:
            (batch, time, n_embd), or (tokens, n_embd) with a cache

        Raises:
            ContextLengthError: `time` is larger than the context length.
        """
        if cache is None:
            time = tokens.shape[-1]
            if time > self.config.context_length:
                raise ContextLengthError(time, self.config.context_length)
            position_embedding = self.wpe.weight[:time]
        else:
            assert positions is not None, "cached tokens need their positions"
            position_embedding = self.wpe(positions)
        x = self.dropout(self.wte(tokens) + position_embedding)
        for block in self.h:
            x = block(x, cache, adapters)
        out: Tensor = self.ln_f(x)
        return out

    @property
    def device(self) -> torch.device:
        return self.wpe.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes, whatever its large matrices are stored in."""
        return self.wpe.weight.dtype

    @property
    def output_weight(self) -> Tensor:
        """The output head, (vocab, n_embd)."""
        head = self.wte if self.lm_head is None else self.lm_head
        return head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, n_embd) -> (…, vocab)"""
        if self.lm_head is None:
            return self.wte.logits(hidden)
        if self.tile is not None:
            return linear(hidden, self.lm_head.weight, None, self.tile)
        out: Tensor = self.lm_head(hidden)
        return out

    def multiply_in_tiles(self, tile: int = 8) -> None:
        """Make every row independent of the others in a step, to the last bit, on a CPU.

        That costs time where steps have few rows or very many. Adapters have a `tile` of their own.
        """
        self.tile = self.wte.tile = tile
        for module in self.modules():
            if isinstance(module, Projection):
                module.tile = tile

    def parameter_count(self) -> int:
        """Number of parameters, a tied head counted once; the same in every precision."""
        if self.quantized:  # its weights are no parameters any more
            with torch.device("meta"):
                return GPT(self.config).parameter_count()
        return sum(p.numel() for p in self.parameters())
