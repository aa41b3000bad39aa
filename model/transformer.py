"""The network: a decoder-only transformer, one for all families, for training and for serving.

    choice               here                               which family takes which:
    norm                 nn.LayerNorm, nn.RMSNorm           the table in model/architecture.py
    positions            model.positions: learned, rotary (plain, linear, Llama 3, divisors)
    MLP                  GELUMLP, SwiGLUMLP
    heads, QK-norm       model.attention
    biases               Projection's `bias`
    output head          the TokenEmbedding itself, or an OutputHead

Choices are resolved when the network is built; `forward` does not know of them.

Training gives it whole sequences, (batch, time). Serving gives it the new tokens of many sequences
in one flat dimension, (tokens,), with a `CacheStep` that knows which belong together. Adapters are
an argument of the call, never a change of the network: one copy of the weights then serves rows
with different adapters, or none, in one batch.

`Transformer.forward` ends at the last norm; `Transformer.logits` is a call of its own, because the
output layer is a large part of the work and most positions of a prompt never need it.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.architecture import Architecture
from model.attention import Attends, Attention
from model.errors import ContextLengthError
from model.fused import RMSNorm, by_hand, swiglu
from model.positions import Angles, LearnedPositions, make_positions
from model.projection import Adapts, OutputHead, Projection, TokenEmbedding, by_row

Role = Literal["embedding", "matrix", "bias", "norm"]
"""What a parameter is to an optimizer."""


class GELUMLP(nn.Module):
    """Two projections with the tanh form of GELU between them."""

    def __init__(self, config: Architecture, layer: int) -> None:
        super().__init__()
        path, bias = f"blocks.{layer}.mlp", config.bias == "all"
        self.up = Projection(f"{path}.up", config.n_embd, {"up": config.mlp_width}, bias=bias)
        self.activation = nn.GELU(approximate="tanh")
        self.down = Projection(f"{path}.down", config.mlp_width, {"down": config.n_embd}, bias=bias)

    def forward(self, x: Tensor, adapters: Adapts | None) -> Tensor:
        hidden = by_row(self.activation, self.up(x, adapters), self.up.tile)
        out: Tensor = self.down(hidden, adapters)
        return out


class SwiGLUMLP(nn.Module):
    """down(silu(gate(x)) × up(x)); gate and up are stored as one (Shazeer, 2020)."""

    def __init__(self, config: Architecture, layer: int) -> None:
        super().__init__()
        path, bias, width = f"blocks.{layer}.mlp", config.bias == "all", config.mlp_width
        parts = {"gate": width, "up": width}
        self.gate_up = Projection(f"{path}.gate_up", config.n_embd, parts, bias=bias)
        self.down = Projection(f"{path}.down", width, {"down": config.n_embd}, bias=bias)

    def forward(self, x: Tensor, adapters: Adapts | None) -> Tensor:
        both = self.gate_up(x, adapters)
        if by_hand(both) and self.gate_up.tile is None:
            hidden = swiglu(both)
        else:
            gate, up = both.chunk(2, dim=-1)
            hidden = by_row(F.silu, gate, self.gate_up.tile) * up
        out: Tensor = self.down(hidden, adapters)
        return out


_NORMS = {"layer": nn.LayerNorm, "rms": RMSNorm}
_MLPS = {"gelu": GELUMLP, "swiglu": SwiGLUMLP}


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a shortcut (pre-norm)."""

    def __init__(self, config: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        norm = _NORMS[config.norm]
        self.attention_norm = norm(config.n_embd, eps=config.norm_eps)
        self.attention = Attention(config, layer, dropout)
        self.mlp_norm = norm(config.n_embd, eps=config.norm_eps)
        self.mlp = _MLPS[config.mlp](config, layer)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, angles: Angles | None, cache: Attends | None, adapters: Adapts | None
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), angles, cache, adapters))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x), adapters))
        return out


class Transformer(nn.Module):
    """A decoder-only transformer.

    Args:
        config: the choices that it is made of.
        dropout: of embeddings, attention and residual branches; acts in training mode only.
    """

    def __init__(self, config: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.quantized = 0  # to how many bits `model.cpu.quantize` has rounded its matrices,
        self.weight_error = 0.0  # and the largest relative error of one that was not so before
        self.embedding = TokenEmbedding(config.vocab_size, config.n_embd)
        self.positions = make_positions(config)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, i, dropout) for i in range(config.n_layer))
        self.norm = _NORMS[config.norm](config.n_embd, eps=config.norm_eps)
        # An output head of its own exists only when it is not the input embedding.
        self.head = None if config.tied else OutputHead(config.n_embd, config.vocab_size)
        self.tile: int | None = None  # see `multiply_in_tiles`

    def init_weights(self, generator: torch.Generator) -> None:
        """GPT-2's initialisation: N(0, 0.02), residual projections scaled by 1/sqrt(2 n_layer)."""
        residual = 0.02 / math.sqrt(2 * self.config.n_layer)
        ends_branch = ("attention.out.weight", "mlp.down.weight")
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                std = residual if name.endswith(ends_branch) else 0.02
                nn.init.normal_(parameter, 0.0, std, generator=generator)

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: Attends | None = None,
        adapters: Adapts | None = None,
    ) -> Tensor:
        """Hidden states after the last norm.

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
        at: Tensor | slice
        if cache is None:
            time = tokens.shape[-1]
            if time > self.config.context_length:
                raise ContextLengthError(time, self.config.context_length)
            at = slice(0, time)
        else:
            assert positions is not None, "cached tokens need their positions"
            at = positions
        x = self.dropout(self.positions.add(self.embedding(tokens), at))
        angles = self.positions.angles(at, x.device)
        for block in self.blocks:
            x = block(x, angles, cache, adapters)
        out: Tensor = self.norm(x)
        return out

    def last_block(self, x: Tensor) -> Tensor:
        """The last block and the last norm, on what enters them: (batch, time, n_embd)."""
        angles = self.positions.angles(slice(0, x.shape[-2]), x.device)
        out: Tensor = self.norm(self.blocks[-1](x, angles, None, None))
        return out

    @property
    def device(self) -> torch.device:
        device: torch.device = self.norm.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes, whatever its large matrices are stored in."""
        dtype: torch.dtype = self.norm.weight.dtype
        return dtype

    @property
    def output_weight(self) -> Tensor:
        """The output head, (vocab, n_embd)."""
        head = self.embedding if self.head is None else self.head
        return head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, n_embd) -> (…, vocab)"""
        head = self.embedding if self.head is None else self.head
        return head.logits(hidden)

    def projections(self) -> Iterator[tuple[str, Projection]]:
        """Each linear layer of the blocks, with its path, from the first block on."""
        for path, module in self.named_modules():
            if isinstance(module, Projection):
                yield path, module

    def multiply_in_tiles(self, tile: int = 8) -> None:
        """Make every row independent of the others in a step, to the last bit, on a CPU.

        That costs time where steps have few rows or very many. Adapters have a `tile` of their own.
        """
        self.tile = tile
        for module in self.modules():
            if isinstance(module, Projection | TokenEmbedding | OutputHead):
                module.tile = tile

    def parameter_count(self) -> int:
        """Number of parameters, a tied head counted once; the same in every precision."""
        return self.config.parameter_count()


def parameter_roles(module: nn.Module) -> dict[str, Role]:
    """What each parameter of a network, an adapter or a head is to an optimizer, by its name."""
    roles: dict[str, Role] = {}
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(path, recurse=False):
            if isinstance(owner, TokenEmbedding | LearnedPositions):
                roles[name] = "embedding"
            elif parameter.ndim == 2:
                roles[name] = "matrix"
            else:
                roles[name] = "bias" if name.endswith("bias") else "norm"
    return roles
