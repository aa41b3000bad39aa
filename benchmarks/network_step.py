"""Milliseconds of a step of GPT-2 124M in 8 bits: all blocks and the output head.

    python -m benchmarks.network_step [--threads 2] [--cells bf16] [--seconds 1]

Each row of a decoding step is a sequence of its own with so many tokens in the cache. Beside it:
the same with an adapter of rank 16 on every layer, and the linear layers alone, each a call. Forms
take turns; the median is printed, and the least. Weights are random: that changes no time.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from model.architecture import PRESETS
from model.cpu.attention import TOKENS, PagedCache, Plan
from model.cpu.quantize import QuantizedEmbedding, quantize
from model.cpu.quantized_blocks import QuantizedBlocks
from model.lora import AdapterRows, LoRA, LoRASettings
from model.transformer import Transformer

CELLS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = [(rows, cached, 1) for cached in (64, 512) for rows in (1, 4, 16, 64)] + [(1, 0, 512)]
"""(sequences, tokens of each in the cache, new tokens of each)"""


class Step:
    """The network and one cache for all shapes, whatever they left in it."""

    def __init__(self, cells: torch.dtype) -> None:
        config = PRESETS["gpt2-124m"]
        self.model = Transformer(config).eval()
        self.model.init_weights(torch.Generator().manual_seed(0))
        quantize(self.model)
        blocks = self.model.blocks[0]
        if not isinstance(blocks, QuantizedBlocks):
            raise SystemExit("the kernels are not compiled: run `python hatch_build.py`")
        self.blocks = blocks
        self.each = max(-(-(cached + new) // TOKENS) for _, cached, new in SHAPES)
        count = self.each * max(sequences for sequences, *_ in SHAPES)
        keys = torch.zeros(config.n_layer, count, config.n_head, TOKENS, config.head_dim).to(cells)
        self.cache = PagedCache(blocks.network.kernel, keys, keys.clone())
        self.lora = LoRA(config, LoRASettings(rank=16)).eval()
        self.lora.init_weights(torch.Generator().manual_seed(0))

    def run(self, sequences: int, cached: int, new: int, *, adapter: bool = False) -> Tensor:
        """The logits of each sequence's last token."""
        firsts = [i * self.each for i in range(sequences)]
        plan = Plan(self.cache, [(range(f, f + self.each), cached, new) for f in firsts])
        tokens = torch.zeros(sequences * new, dtype=torch.long)
        x = self.model.positions.add(self.model.embedding(tokens), tokens)
        rows = AdapterRows([(self.lora, slice(None))]) if adapter else None
        packed = self.blocks._adapter_rows(rows) if rows else []
        hidden = self.model.norm(self.blocks.network(x, plan, adapters=packed))
        return self.model.logits(hidden[new - 1 :: new])

    def linear_layers(self, rows: int, logits: int) -> None:
        narrow, wide = torch.randn(rows, 768), torch.randn(rows, 3072)
        for block in self.blocks._blocks():
            for path, x in (
                ("attention.qkv", narrow),
                ("attention.out", narrow),
                ("mlp.up", narrow),
                ("mlp.down", wide),
            ):
                block.get_submodule(path)(x)
        assert isinstance(self.model.embedding, QuantizedEmbedding)
        self.model.embedding.logits(narrow[:logits])


@torch.inference_mode()
def measure(forms: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Milliseconds of the calls of each."""
    times: list[list[float]] = [[] for _ in forms]
    for form in forms:
        form()
    end = time.perf_counter() + seconds * len(forms)
    while time.perf_counter() < end:
        for form, own in zip(forms, times, strict=True):
            start = time.perf_counter()
            form()
            own.append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cells", choices=CELLS, default="fp32")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    step = Step(CELLS[arguments.cells])
    print(f"{arguments.threads} threads, cells in {arguments.cells}; ms: median (least)")
    print(f"{'rows':>5} {'cached':>6} {'step':>16} {'with adapter':>16} {'linear layers':>16}")
    for shape in SHAPES:
        sequences, cached, new = shape
        forms: list[Callable[[], object]] = [
            partial(step.run, *shape),
            partial(step.run, *shape, adapter=True),
            partial(step.linear_layers, sequences * new, sequences),
        ]
        times = measure(forms, arguments.seconds)
        cells = [f"{statistics.median(own):7.2f} ({min(own):6.2f})" for own in times]
        print(f"{sequences * new:>5} {cached:>6} {' '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
