"""What a training loop does for the benchmark: so many optimizer steps, and a proof of its network.

Every system reads the same files, which `benchmarks.train` wrote: tokens, two bytes each, in
`train.bin` and `val.bin`, and the weights that all start from, under the names of
`model.transformer.Transformer`.

Nothing here imports our package `model`: nanoGPT has a module of that name.
"""

import atexit
import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.systems.training.loops import Loop

STEPS = 100_000
"""Of the whole run, for the schedules; no run gets there."""
LR, WARMUP, WEIGHT_DECAY, BETAS, CLIP = 3e-4, 20, 0.1, (0.9, 0.95), 1.0
"""AdamW of all systems, with a cosine schedule."""


@dataclass(frozen=True)
class Shape:
    """A network and the batch that it is trained with."""

    name: str
    vocab_size: int
    context: int
    """Tokens of a sequence, and positions of the network."""
    n_layer: int
    n_head: int
    n_embd: int
    batch: int
    """Sequences of a step."""

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch * self.context

    @property
    def parameters(self) -> int:
        """With a tied output head, biases and learnt positions."""
        width = self.n_embd
        block = 12 * width * width + 13 * width
        return (self.vocab_size + self.context) * width + self.n_layer * block + 2 * width

    @property
    def flops_per_token(self) -> int:
        """Of a step: 6 N + 12 layers × width × context (PaLM, appendix B; as nanoGPT counts).

        N leaves out the positions, which are looked up, and keeps the token embedding, which is
        the output layer. Causal attention is counted as if it were full, as is usual.
        """
        multiplied = self.parameters - self.context * self.n_embd
        return 6 * multiplied + 12 * self.n_layer * self.n_embd * self.context


@dataclass(frozen=True)
class Tuned:
    """An adapter on a base that stays, and the batch that it is trained with."""

    name: str
    context: int
    """Tokens of a sequence."""
    batch: int
    """Sequences of a step."""
    rank: int = 16
    alpha: float = 32.0

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch * self.context


class TrainingSystem:
    """One training loop with its network, in a process of its own.

    Args:
        work: the directory of the files.
        threads: to compute with.
        shape: the fields of `Shape`, or of `Tuned`.
        device: cpu or cuda.
        options: of this system, from `benchmarks.systems.TRAINERS`.

    After `__init__` the first step is done: what is compiled or allocated once is there.
    """

    settings: dict[str, Any]
    loop: Loop
    proof: dict[str, float]
    shape: Shape | Tuned
    device: torch.device

    def __init__(
        self, work: Path, threads: int, *, shape: dict[str, Any], device: str, **options: Any
    ) -> None:
        raise NotImplementedError

    def check(self) -> dict[str, float]:
        """What the network made of the first windows of the text at the shared weights, in the
        precision it trains in: `parameters` (those that learn), `loss` (mean over tokens) and
        `gradient_norm`."""
        return self.proof

    def steps(self, count: int) -> None:
        """Data, forward and backward pass, clipping, optimizer and schedule, so many times."""
        self.loop.steps(count)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def scratch(work: Path) -> Path:
    """A new directory for what a loop writes; it goes when the process ends."""
    path = tempfile.mkdtemp(dir=work, prefix="run-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def tokens_of(work: Path) -> "np.memmap[Any, np.dtype[np.uint16]]":
    return np.memmap(work / "train.bin", np.uint16, mode="r")


def weights_of(work: Path) -> dict[str, Tensor]:
    """fp32, under the names of `model.transformer.Transformer`."""
    return {name: value.float() for name, value in load_file(work / "weights.safetensors").items()}


def precision_of(kind: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass; `kind` is fp32 or bf16 (autocast).

    A whole loop may run in it: no cast weight outlives the step that changes it.
    """
    if kind == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def prove(
    network: nn.Module,
    logits: Callable[[Tensor], Tensor],
    work: Path,
    shape: Shape | Tuned,
    device: torch.device,
    precision: str,
) -> dict[str, float]:
    """`TrainingSystem.check` for a network that gives all logits; leaves no gradients."""
    inputs, targets = first_windows(work, shape, device)
    with precision_of(precision, device):
        loss = F.cross_entropy(logits(inputs).flatten(0, 1).float(), targets.flatten())
    return proof_of(network, loss)


def proof_of(network: nn.Module, loss: Tensor) -> dict[str, float]:
    """Take the gradients of `loss`, measure and drop them."""
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for p in network.parameters() if p.requires_grad]
    squares = sum(float(p.grad.float().square().sum()) for p in parameters if p.grad is not None)
    network.zero_grad(set_to_none=True)
    return {
        "parameters": sum(p.numel() for p in parameters),
        "loss": loss.item(),
        "gradient_norm": math.sqrt(squares),
    }


def first_windows(work: Path, shape: Shape | Tuned, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (batch, context)"""
    tokens = torch.from_numpy(tokens_of(work)[: shape.tokens + 1].astype(np.int64)).to(device)
    return tokens[:-1].view(shape.batch, -1), tokens[1:].view(shape.batch, -1)


class Windows(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """The text in windows beside each other, with their targets."""

    def __init__(self, work: Path, context: int) -> None:
        self._tokens = tokens_of(work)
        self._context = context

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self._context
        window = self._tokens[start : start + self._context + 1].astype(np.int64)
        return torch.from_numpy(window[:-1]), torch.from_numpy(window[1:])
