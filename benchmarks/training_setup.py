"""Who trains what in `benchmarks.train`: networks, peers, and the options they may choose from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks import gpt2
from benchmarks.rounds import Outcome
from benchmarks.systems.training.base import Shape
from model.architecture import Architecture

Options = dict[str, Any]

SHAPES = {
    "small": Shape("small", 8192, 512, n_layer=6, n_head=6, n_embd=384, batch=8),
    "gpt2-124m": Shape("gpt2-124m", 50257, 256, n_layer=12, n_head=12, n_embd=768, batch=4),
    # The vocabulary is rounded up for all, as nanoGPT does for the sake of the GPU.
    "gpt2-124m-gpu": Shape(
        "gpt2-124m-gpu", 50304, 1024, n_layer=12, n_head=12, n_embd=768, batch=16
    ),
    "tiny": Shape("tiny", 512, 32, n_layer=2, n_head=2, n_embd=32, batch=2),
}
"""`small` is the base from scratch; `tiny` shows that all runs."""
PEERS = {"nanoGPT": "nanogpt", "Trainer": "trainer", "book": "book"}
"""Names in the table, and the systems."""
WINDOWS = 2048
"""Of text: no epoch ends during a run on a CPU."""
LOSS_WITHIN, GRADIENT_WITHIN = 0.005, 0.05
"""How far a peer's proof may be from ours, relatively: bf16 and GELU's two forms are within."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 of the SXM versions, from Nvidia's data sheets."""


def as_it_comes(peer: str, device: str) -> Options:
    """The defaults of the peer's own files and documentation for this device."""
    if peer == "nanoGPT" and device == "cuda":
        return {"precision": "bf16", "compile": True}
    return {}  # on a CPU, its README says --compile=False; it has no autocast there


def candidates(system: str, device: str, bf16: bool) -> list[Options]:
    """What a tuned peer may choose from.

    Args:
        bf16: whether the device multiplies it; the options are fp32 elsewhere.
    """
    fast = {"precision": "bf16" if bf16 else "fp32", "keep_memory": True}
    if system == "nanogpt":
        fast["fused"] = True
    if system == "book":
        fast |= {"fast": True, "fused": True, "tf32": device == "cuda"}
    found = [fast, {**fast, "compile": True}]
    if system == "book" and bf16:
        found += [{**option, "precision": "bf16-weights"} for option in found]
    return found


def prepare(work: Path, shape: Shape) -> Path:
    """Write the text and the weights that all start from, if they are not there yet.

    The text is random, the k-th token 1/k as frequent as the first: something can be learnt, and
    embeddings get gradients as unevenly as from real text.
    """
    config = Architecture(
        shape.vocab_size,
        shape.context,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
    )

    def write(out: Path) -> None:
        out.mkdir(parents=True)
        draw = np.random.default_rng(0)
        share = 1 / np.arange(1, shape.vocab_size + 1)
        for part, windows in (("train", WINDOWS), ("val", shape.batch + 1)):
            count = windows * shape.context + 1
            tokens = draw.choice(shape.vocab_size, count, p=share / share.sum())
            tokens.astype(np.uint16).tofile(out / f"{part}.bin")
        # Wide embeddings make wide logits: the loss then depends on all that the network computes.
        scales = {"embedding.weight": 4.0, "positions.weight": 4.0}
        weights = {
            name: (weight * scales.get(name, 1.0)).bfloat16()
            for name, weight in gpt2.random_weights(config).items()
        }
        save_file(weights, out / "weights.safetensors")

    return gpt2.made(work / f"train-{shape.name}", write)


def differs(
    ours: Mapping[str, float],
    other: Mapping[str, float],
    gradient_within: float = GRADIENT_WITHIN,
) -> str:
    """Why another network is not the same as ours; "" if it is."""
    if ours["parameters"] != other["parameters"]:
        return f"it has {other['parameters']:,} parameters, ours {ours['parameters']:,}"
    for name, within in (("loss", LOSS_WITHIN), ("gradient_norm", gradient_within)):
        if not abs(other[name] / ours[name] - 1) <= within:
            return f"not the same network: {name} {other[name]:.4f}, ours {ours[name]:.4f}"
    return ""


def utilisation(outcome: Outcome, shape: Shape, peak: float) -> dict[str, float]:
    """Model FLOPs utilisation: tokens/s × (6 N + 12 layers × width × context) / the peak."""
    return {
        name: round(outcome.median(name) * shape.flops_per_token / peak, 4)
        for name in outcome.rates
    }


def peak_flops(device: str, given: float) -> float:
    """Of the device in bf16, per second; 0 if it is not known."""
    if given or device != "cuda":
        return given * 1e12
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), 0.0)
