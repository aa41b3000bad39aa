"""The blocks of a network with 8-bit weights as one module, computed in one call of the kernel.

One call gives up Python's lock once in a step, and starts its threads once. Attention, layer norms
and adapters are computed there as well, all in such a way that a row gets the same bits in every
batch, in prefill as in decoding. Evaluation without a cache goes the same way, over a cache of its
own: what is verified at start-up is what serves.
"""

from collections.abc import Iterable
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from model.architecture import Architecture
from model.attention import Attends
from model.cpu import int8, network
from model.cpu.attention import TOKENS, PagedCache, Plan
from model.lora import AdapterRows, LoRA
from model.positions import Angles
from model.projection import Adapts
from model.transformer import Block

_LAYERS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
"""The linear layers of a block, in the kernel's order."""
CACHE_DTYPE = torch.bfloat16
"""Of the keys and values of quantized networks: beside 8-bit weights it loses nothing that counts,
and there is half as much to read."""


def fits(config: Architecture) -> bool:
    """Whether the kernel can compute blocks of this shape."""
    return config.head_dim % 16 == 0


class QuantizedBlocks(nn.Module):
    """All blocks of a network.

    Args:
        blocks: with projections that `kernel` packed and norms in fp32. They stay usable one by
            one, and compute the same but for rounding.
    """

    def __init__(self, kernel: int8.Kernel, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.heads = self._blocks()[0].attention.heads
        self.network = network.Network(kernel, [_parts(block) for block in self._blocks()])
        self._packed: WeakKeyDictionary[LoRA, network.PackedAdapter] = WeakKeyDictionary()

    def forward(
        self,
        x: Tensor,
        angles: Angles | None = None,
        cache: Attends | None = None,
        adapters: Adapts | None = None,
    ) -> Tensor:
        """(batch, time, n_embd), or (tokens, n_embd) with a cache, which must have a plan."""
        plan = self._own_plan(*x.shape[:2]) if cache is None else getattr(cache, "plan", None)
        assert isinstance(plan, Plan), "a quantized network needs a cache step with a plan"
        rows = self._adapter_rows(adapters) if adapters is not None else []
        return self.network(x.flatten(0, -2), plan, rows).view(x.shape)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _own_plan(self, batch: int, time: int) -> Plan:
        """A cache for one call: a layer needs it no more when the next one begins."""
        each = -(-time // TOKENS)
        width = self.network.width // self.heads
        cells = (2, batch * each, self.heads, TOKENS, width)
        keys, values = torch.empty(cells, dtype=CACHE_DTYPE).unbind()
        layers = (len(self.blocks), -1, -1, -1, -1)
        cache = PagedCache(self.network.kernel, keys.expand(layers), values.expand(layers))
        return Plan(cache, [(range(i * each, (i + 1) * each), 0, time) for i in range(batch)])

    def _adapter_rows(self, adapters: Adapts) -> list[tuple[network.PackedAdapter, slice]]:
        if isinstance(adapters, LoRA):  # of all rows
            return [(self._pack(adapters), slice(None))]
        assert isinstance(adapters, AdapterRows)
        return [(self._pack(lora), rows) for lora, rows in adapters.groups]

    def _pack(self, lora: LoRA) -> network.PackedAdapter:
        """The packed form of an adapter, which is made once: it must not change after."""
        packed = self._packed.get(lora)
        if packed is None:
            assert not (lora.training and lora.settings.dropout), "quantized is for inference only"
            paths = [f"blocks.{i}.{path}" for i in range(len(self.blocks)) for path in _LAYERS]
            packed = network.PackedAdapter([lora.change(path) for path in paths])
            self._packed[lora] = packed
        return packed


def _parts(block: Block) -> network.Block:
    layers = []
    for path in _LAYERS:
        layer = block.get_submodule(path).layer
        assert isinstance(layer, int8.PackedLinear)
        layers.append(layer)
    qkv, out, up, down = layers
    return network.Block(block.attention_norm, qkv, out, block.mlp_norm, up, down)
