"""No engine: a loop that reads as many bytes as a step of ours, and does nothing with them.

What it gives as tokens a second is what the memory, or the last-level cache, lets any engine have
that reads all weights for each token of one sequence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpt2 import Files
from benchmarks.systems.base import Sampling, System, Tokens
from model.checkpoint import load_base
from model.cpu import quantize as quantized
from model.cpu.linear import PackedLinear


class Reading(System):
    """Torch's own sum of a tensor, which reads as fast as anything tried."""

    def __init__(self, work: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        base = load_base(Files(work).penwright, held="packed")
        quantized.quantize(base.model)
        size = bytes_of_a_step(base.model)
        del base
        quantized.return_freed_memory()
        self._weights = torch.ones(size // 4)
        self.settings = {"bytes": size}

    def generate(self, prompts: list[Tokens], new: int, samplings: Sequence[Sampling]) -> None:
        if len(prompts) > 1:
            raise NotImplementedError("a step of several sequences is more than reading")
        for _ in range(new):
            self._weights.sum()

    def prefill(self, prompt: Tokens) -> None:
        raise NotImplementedError("a prompt is more than reading")


def bytes_of_a_step(model: Any) -> int:
    """What the matrices of a quantized network take that a step multiplies by."""
    head = model.embedding if model.head is None else model.head
    layers = [m.layer for m in model.modules() if isinstance(m, quantized.QuantizedProjection)]
    layers.append(head.layer)
    packed = [layer for layer in layers if isinstance(layer, PackedLinear)]
    assert len(packed) == len(layers), "the kernels were not compiled"
    return sum(layer.weight.nbytes for layer in packed)
