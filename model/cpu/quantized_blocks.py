"""The blocks of a network with 8-bit weights as one module, computed in one call of the kernel.

One call releases the GIL once in a step, and starts its threads once. Attention, norms, rotations
and adapters are computed there as well, all in such a way that a row gets the same bits in every
batch, in prefill as in decoding. Evaluation without a cache goes the same way, over a cache of its
own: what is verified at start-up is what serves.
"""

from collections.abc import Iterable, Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from model.architecture import Architecture
from model.attention import Attends, HeadNorm
from model.cpu import network
from model.cpu.attention import TOKENS, PagedCache, Plan
from model.cpu.library import Kernel, require
from model.cpu.linear import PackedLinear
from model.dora import Layer
from model.lora import AdapterRows, LoRA
from model.positions import Angles
from model.projection import Adapts
from model.transformer import Block

CACHE_DTYPE = torch.bfloat16
"""Of the keys and values of quantized networks: beside 8-bit weights it loses nothing that counts,
and there is half as much to read."""


def fits(config: Architecture) -> bool:
    """Whether the kernel can compute blocks of this shape."""
    return all(size % 16 == 0 for size in (config.head_dim, config.n_embd, config.mlp_width))


class QuantizedBlocks(nn.Module):
    """All blocks of a network.

    Args:
        blocks: with projections that `kernel` packed and norms in fp32. They stay usable one by
            one, and compute the same but for rounding.
    """

    def __init__(self, kernel: Kernel, blocks: Iterable[nn.Module], config: Architecture) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        up = "mlp.up" if config.mlp == "gelu" else "mlp.gate_up"
        layers = ("attention.qkv", "attention.out", up, "mlp.down")
        self.paths = [f"blocks.{i}.{path}" for i in range(config.n_layer) for path in layers]
        self._group = config.n_head // config.n_kv_head
        self.network = network.Network(
            kernel,
            [_parts(block, layers) for block in self._blocks()],
            config.n_head,
            config.n_kv_head,
            config.head_dim,
        )
        self._packed: WeakKeyDictionary[LoRA, network.PackedAdapter] = WeakKeyDictionary()

    def forward(
        self,
        x: Tensor,
        angles: Angles | None = None,
        cache: Attends | None = None,
        adapters: Adapts | None = None,
    ) -> Tensor:
        """(batch, time, n_embd), or (tokens, n_embd) with a cache, which must have a plan."""
        if cache is None:
            plan = self._own_plan(*x.shape[:2])
            if angles is not None:  # the same for every sequence
                cosines, sines = (part.repeat(len(x), 1) for part in angles)
                angles = cosines, sines
        else:
            of_step = getattr(cache, "plan", None)
            if not isinstance(of_step, Plan):
                raise TypeError("a quantized network needs a cache step with a plan")
            plan = of_step
        rows = self._adapter_rows(adapters) if adapters is not None else []
        return self.network(x.flatten(0, -2), plan, angles, rows).view(x.shape)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _own_plan(self, batch: int, time: int) -> Plan:
        """A cache for one call: a layer needs it no more when the next one begins."""
        each = -(-time // TOKENS)
        cells = (2, batch * each, self.network.kv_heads, TOKENS, self.network.head_dim)
        keys, values = torch.empty(cells, dtype=CACHE_DTYPE).unbind()
        layers = (len(self.blocks), -1, -1, -1, -1)
        cache = PagedCache(
            self.network.kernel, keys.expand(layers), values.expand(layers), self._group
        )
        return Plan(cache, [(range(i * each, (i + 1) * each), 0, time) for i in range(batch)])

    def _adapter_rows(self, adapters: Adapts) -> list[tuple[network.PackedAdapter, slice]]:
        if isinstance(adapters, LoRA):  # of all rows
            return [(self.packed(adapters), slice(None))]
        assert isinstance(adapters, AdapterRows)
        return [(self.packed(lora), rows) for lora, rows in adapters.groups]

    def packed(self, lora: LoRA) -> network.PackedAdapter:
        """The packed form of an adapter, which is made once: it must not change after."""
        packed = self._packed.get(lora)
        if packed is None:
            require(
                not (lora.training and lora.settings.dropout), "quantized is for inference only"
            )
            changes = [lora.change(path) for path in self.paths]
            gains = [self._gain(lora, path) for path in self.paths]
            packed = network.PackedAdapter(self.network.layers, changes, gains)
            self._packed[lora] = packed
        return packed

    def _gain(self, lora: LoRA, path: str) -> tuple[Tensor, Tensor] | None:
        """Of each channel, with the bias that its product has: b + (1 + g) (y - b)."""
        layer = cast(Layer, self.get_submodule(path))
        gain, bias = lora.gain_of(layer), layer.bias
        if gain is None:
            return None
        return gain, torch.zeros_like(gain) if bias is None else -gain * bias


def _parts(block: Block, paths: Sequence[str]) -> network.Block:
    layers = []
    for path in paths:
        layer = block.get_submodule(path).layer
        assert isinstance(layer, PackedLinear)
        layers.append(layer)
    qkv, out, up, down = layers
    q_norm, k_norm = (
        norm if isinstance(norm, HeadNorm) else None
        for norm in (block.attention.q_norm, block.attention.k_norm)
    )
    return network.Block(block.attention_norm, qkv, q_norm, k_norm, out, block.mlp_norm, up, down)
