"""Microseconds of one linear layer in 8 bits, beside torch's in fp32 and bf16.

    python -m benchmarks.int8_linear [--threads 2] [--rows 1 4 16 64] [--json FILE]

Each layer exists in as many copies as exceed the caches, so that weights are read from memory as
in a model. The forms take turns in every round; the median of the rounds is printed, and how many
times faster than fp32 it is. The last lines add up the linear layers of one step of GPT-2 124M.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cpu import library
from model.cpu.linear import PackedLinear
from model.cpu.quantize import TorchLinear, quantize_weight

LAYERS = {(768, 2304): 12, (768, 768): 12, (768, 3072): 12, (3072, 768): 12, (768, 50257): 1}
"""(in, out) of GPT-2 124M's linear layers, and how many of each a step computes."""
_CACHES = 96 * 2**20  # bytes; more than the last-level cache that one core can use

Linear = Callable[[Tensor], Tensor]


def copies(size: int) -> int:
    return max(1, -(-_CACHES // size))


def torch_layer(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Linear:
    weight, bias = weight.to(dtype, copy=True), bias.to(dtype)
    return lambda x: F.linear(x.to(dtype), weight, bias).float()


def forms(inputs: int, outputs: int, paths: Sequence[str]) -> dict[str, list[Linear]]:
    """Copies of one layer with random weights, in each form."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator) * 0.02
    bias = torch.randn(outputs, generator=generator)
    values, scale = quantize_weight(weight)
    size = weight.numel()
    made: dict[str, list[Linear]] = {
        "fp32": [torch_layer(weight, bias, torch.float32) for _ in range(copies(4 * size))],
        "bf16": [torch_layer(weight, bias, torch.bfloat16) for _ in range(copies(2 * size))],
        "int8 torch": [TorchLinear(values.clone(), scale, bias) for _ in range(copies(size))],
    }
    for path in paths:
        kernel = library.load(path)
        if kernel is None:
            raise SystemExit("the kernel is not compiled: run `python hatch_build.py`")
        made[path] = [PackedLinear(kernel, values, scale, bias) for _ in range(copies(size))]
    return made


@torch.inference_mode()
def measure(made: dict[str, list[Linear]], x: Tensor, rounds: int) -> dict[str, float]:
    """Median microseconds a call of each form."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds + 1):
        for name, layers in made.items():
            # Some 100 ms a form and round are enough, and the slow forms need no more.
            start, calls = time.perf_counter(), 0
            for layer in layers:
                layer(x)
                calls += 1
                if time.perf_counter() - start > 0.1:
                    break
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fastest = library.load()
    paths = fastest.able[1:] if fastest else ()
    step: dict[int, dict[str, float]] = {rows: {} for rows in arguments.rows}
    results = []

    def show(title: str, rows: int, times: dict[str, float]) -> None:
        cells = [f"{t:9.0f} ({times['fp32'] / t:4.1f}×)" for t in times.values()]
        print(f"{title:>14} {rows:>5} {' '.join(cells)}", flush=True)

    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, ", end="")
    print(f"{arguments.threads} threads; µs per call, and times faster than fp32")
    for number, ((inputs, outputs), count) in enumerate(LAYERS.items()):
        made = forms(inputs, outputs, paths)
        if number == 0:
            print(f"{'layer':>14} {'rows':>5} {' '.join(f'{name:>17}' for name in made)}")
        for rows in arguments.rows:
            x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1))
            times = measure(made, x, arguments.rounds)
            show(f"{inputs} to {outputs}", rows, times)
            results.append({"in": inputs, "out": outputs, "rows": rows, "us": times})
            for name, value in times.items():
                step[rows][name] = step[rows].get(name, 0.0) + count * value
    for rows, times in step.items():
        show("all of a step", rows, times)
        results.append({"step": "gpt2-124m", "rows": rows, "us": times})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
