"""Where the time of a step goes: milliseconds of each part, and what reading its weights takes.

    python -m benchmarks.network_step [--model gpt2] [--threads 2] [--seconds 1] [--json FILE]

Each row of a decoding step is a sequence of its own with so many tokens in the cache. The parts are
called alone, each for all blocks: the linear layers, attention over the cache, and the output head.
What is left of a whole step (`rest`: norms, rotation, SwiGLU, the embedding, calls) is the
difference. Forms take turns; the median is printed. `reads` is the time in which as many bytes as
the part's weights are read, at the rate at which torch's sum reads as many as the step has: of the
memory, or of the last-level cache where they live in it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.models import MODELS, prepare
from benchmarks.systems.reading import bytes_of_a_step
from model.checkpoint import load_base
from model.cpu.attention import TOKENS, PagedCache, Plan
from model.cpu.linear import PackedLinear
from model.cpu.quantize import quantize
from model.cpu.quantized_blocks import CACHE_DTYPE, QuantizedBlocks
from model.lora import LoRA, LoRASettings
from model.transformer import Transformer

SHAPES = [(rows, cached, 1) for cached in (64, 512) for rows in (1, 4, 16, 32)] + [(1, 0, 512)]
"""(sequences, tokens of each in the cache, new tokens of each)"""
LAYERS = ("qkv", "out", "up", "down")
RANK = 16


class Step:
    """The network and one cache for all shapes, whatever they left in it."""

    def __init__(self, model: Transformer) -> None:
        quantize(model)
        blocks = model.blocks[0]
        if not isinstance(blocks, QuantizedBlocks):
            raise SystemExit("the kernels are not compiled: run `python hatch_build.py`")
        self.model, self.blocks, self.network = model, blocks, blocks.network
        self.each = max(-(-(cached + new) // TOKENS) for _, cached, new in SHAPES)
        count = self.each * max(sequences for sequences, *_ in SHAPES)
        config = model.config
        cells = (config.n_layer, count, config.n_kv_head, TOKENS, config.head_dim)
        keys = torch.zeros(cells, dtype=CACHE_DTYPE)
        group = config.n_head // config.n_kv_head
        self.cache = PagedCache(self.network.kernel, keys, keys.clone(), group)
        self.lora = LoRA(config, LoRASettings(rank=RANK)).eval()
        self.lora.init_weights(torch.Generator().manual_seed(0))
        layers = self.network.layers
        self.layers = {name: layers[at :: len(LAYERS)] for at, name in enumerate(LAYERS)}
        self.head = model.embedding if model.head is None else model.head

    def plan(self, sequences: int, cached: int, new: int) -> Plan:
        firsts = [i * self.each for i in range(sequences)]
        return Plan(self.cache, [(range(f, f + self.each), cached, new) for f in firsts])

    def whole(self, sequences: int, cached: int, new: int, *, adapter: bool = False) -> Tensor:
        """The logits of each sequence's last token."""
        at = torch.arange(cached, cached + new).repeat(sequences)
        tokens = torch.zeros(sequences * new, dtype=torch.long)
        x = self.model.positions.add(self.model.embedding(tokens), at)
        angles = self.model.positions.angles(at, x.device)
        rows = [(self.blocks.packed(self.lora), slice(None))] if adapter else []
        x = self.network(x, self.plan(sequences, cached, new), angles, rows)
        return self.model.logits(self.model.norm(x)[new - 1 :: new])

    def attention(self, sequences: int, cached: int, new: int) -> None:
        config, plan = self.model.config, self.plan(sequences, cached, new)
        heads = config.n_head + 2 * config.n_kv_head
        split = (config.n_head, config.n_kv_head, config.n_kv_head)
        all_heads = torch.zeros(sequences * new, heads, config.head_dim)
        qkv = all_heads.split(split, dim=1)  # type: ignore[no-untyped-call]
        for layer in range(config.n_layer):
            plan.attend(layer, *qkv)

    def forms(self, sequences: int, cached: int, new: int) -> dict[str, Callable[[], object]]:
        shape, rows = (sequences, cached, new), sequences * new
        found: dict[str, Callable[[], object]] = {
            "step": partial(self.whole, *shape),
            "with adapter": partial(self.whole, *shape, adapter=True),
        }
        for name, layers in self.layers.items():
            found[name] = partial(_run, layers, torch.randn(rows, layers[0].in_features))
        found["attention"] = partial(self.attention, *shape)
        hidden = torch.randn(sequences, self.model.config.n_embd)
        found["head"] = partial(self.model.logits, hidden)
        return found

    def bytes(self) -> dict[str, int]:
        """Of the weights of each part."""
        found = {name: sum(_bytes(x) for x in layers) for name, layers in self.layers.items()}
        whole = bytes_of_a_step(self.model)
        return {**found, "head": whole - sum(found.values()), "step": whole}


def _run(layers: list[PackedLinear], x: Tensor) -> None:
    for layer in layers:
        layer(x)


def _bytes(layer: PackedLinear) -> int:
    return layer.weight.nbytes


@torch.inference_mode()
def measure(forms: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Milliseconds of each, the median."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        form()
    end = time.perf_counter() + seconds * len(forms)
    while time.perf_counter() < end:
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(own) for name, own in times.items()}


def main() -> None:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    given: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(given.threads)
    step = Step(load_base(prepare(given.model, given.work).penwright, held="packed").model)
    sizes = step.bytes()
    numbers = torch.ones(sizes["step"] // 4)
    rate = sizes["step"] / measure({"sum": numbers.sum}, given.seconds)["sum"]  # bytes a ms
    print(f"{given.model}, {given.threads} threads; {rate / 1e6:.1f} GB/s; milliseconds, medians")
    parts = (*LAYERS, "head", "attention", "rest")
    names = ("step", *parts, "with adapter")
    print(f"{'rows':>5} {'cached':>6} " + " ".join(f"{name:>12}" for name in names))
    reads = {name: size / rate for name, size in sizes.items()}
    cells = [f"{reads[name]:>12.2f}" if name in reads else " " * 12 for name in names]
    print(f"{'reads':>12} " + " ".join(cells))
    results: list[dict[str, Any]] = []
    for shape in SHAPES:
        sequences, cached, new = shape
        found = measure(step.forms(*shape), given.seconds)
        found["rest"] = found["step"] - sum(found[name] for name in parts if name != "rest")
        line = " ".join(f"{found[name]:>12.2f}" for name in names)
        print(f"{sequences * new:>5} {cached:>6} {line}", flush=True)
        results.append({"rows": sequences * new, "cached": cached, "milliseconds": found})
    values = record.record(
        "benchmarks.network_step", given, bytes=sizes, bytes_per_ms=rate, shapes=results
    )
    record.write(values, given.json)


if __name__ == "__main__":
    main()
