"""The book's script: `GPTModel` (chapter 4) in `train_model` (appendix D: schedule and clipping).

From the authors' own package, `llms-from-scratch`; `--book DIR` names where it lies if it is not
installed. Its output head is tied here, so that the network is the same as the others'.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.systems.training import base
from benchmarks.systems.training.loops import Loop
from training.loop.memory import keep_freed_memory


class Book(base.TrainingSystem):
    """
    Args:
        source: the directory that holds `llms_from_scratch`.
        fast: its own `GPTModelFast`: SDPA attention, one matrix for query, key and value.
        precision: fp32, bf16 (autocast around its loop), or bf16-weights, as in the book's own
            tuned scripts: weights, gradients and optimizer state in bf16.
        fused: AdamW in one kernel.
        compile: the network, with `torch.compile`.
        keep_memory: freed memory stays with the process, as ours keeps it.
        tf32: matrices in TF32 where they are fp32, on a GPU.
    """

    def __init__(
        self,
        work: Path,
        threads: int,
        *,
        shape: dict[str, Any],
        device: str,
        source: str = "",
        fast: bool = False,
        precision: str = "fp32",
        fused: bool = False,
        compile: bool = False,
        keep_memory: bool = False,
        tf32: bool = False,
    ) -> None:
        if source:
            sys.path.insert(0, source)
        self._script: Any = importlib.import_module("llms_from_scratch.appendix_d")
        torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        if tf32:
            torch.set_float32_matmul_precision("high")
        self.shape, self.device = base.Shape(**shape), torch.device(device)
        network = _network(self.shape, base.weights_of(work), fast).to(self.device)
        if precision == "bf16-weights":
            network.to(torch.bfloat16)
        self._precision = "bf16" if precision == "bf16" else "fp32"
        self.proof = base.prove(network, network, work, self.shape, self.device, self._precision)
        self._network = torch.compile(network) if compile else network
        self._optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=base.LR,
            weight_decay=base.WEIGHT_DECAY,
            betas=base.BETAS,
            fused=fused or None,
        )
        self._windows = base.Windows(work, self.shape.context)
        self.loop = Loop(self._main, threads)
        self.loop.start()
        self.settings = {
            "llms-from-scratch": _version(),
            "network": type(network).__name__,
            "precision": precision,
            "fused": fused,
            "compile": compile,
            "keep_memory": keep_memory,
            "tf32": tf32,
            "torch": torch.__version__,
        }

    def _main(self, loop: Loop) -> None:
        batches = _Batches(loop, self._windows, self.shape.batch)
        with base.precision_of(self._precision, self.device):
            self._script.train_model(
                self._network,
                batches,
                batches.plain,
                self._optimizer,
                self.device,
                n_epochs=1,
                eval_freq=base.STEPS,
                eval_iter=1,
                start_context="",
                tokenizer=None,
                warmup_steps=1,  # it clips after the warm-up only
            )


class _Batches:
    """What its loop takes for a loader: the training goes through it once, evaluations beside."""

    def __init__(self, loop: Loop, windows: base.Windows, batch: int) -> None:
        self.plain: torch.utils.data.DataLoader[tuple[Tensor, Tensor]]
        self.plain = torch.utils.data.DataLoader(
            windows, batch_size=batch, shuffle=True, drop_last=True
        )
        self._loop = loop
        self._training = False

    def __len__(self) -> int:
        return base.STEPS

    def __iter__(self) -> Iterator[Any]:
        if self._training:
            return iter(self.plain)
        self._training = True
        return self._loop.batches(self.plain)


def _version() -> str:
    try:
        return importlib.metadata.version("llms-from-scratch")
    except importlib.metadata.PackageNotFoundError:
        return "a clone"


def _network(shape: base.Shape, weights: dict[str, Tensor], fast: bool) -> nn.Module:
    chapter: Any = importlib.import_module("llms_from_scratch.ch04")
    made = (chapter.GPTModelFast if fast else chapter.GPTModel)(
        {
            "vocab_size": shape.vocab_size,
            "context_length": shape.context,
            "emb_dim": shape.n_embd,
            "n_heads": shape.n_head,
            "n_layers": shape.n_layer,
            "drop_rate": 0.0,
            "qkv_bias": True,
        }
    )
    network: nn.Module = made
    made.out_head.weight = made.tok_emb.weight
    left = network.load_state_dict(dict(_renamed(weights, fast)), strict=False)
    # The plain attention keeps its causal masks among its state.
    assert not left.unexpected_keys
    assert all(name.endswith("mask") for name in left.missing_keys), left.missing_keys
    return network


def _renamed(weights: dict[str, Tensor], fast: bool) -> Iterator[tuple[str, Tensor]]:
    """Our weights under the book's names."""
    norm = {"weight": "weight", "bias": "bias"} if fast else {"weight": "scale", "bias": "shift"}
    norms = {"attention_norm": "norm1", "mlp_norm": "norm2"}
    layers = {"mlp.up": "ff.layers.0", "mlp.down": "ff.layers.2"}
    layers["attention.out"] = "att.proj" if fast else "att.out_proj"
    yield "tok_emb.weight", weights["embedding.weight"]
    yield "out_head.weight", weights["embedding.weight"]
    yield "pos_emb.weight", weights["positions.weight"]
    for kind, its in norm.items():
        yield f"final_norm.{its}", weights[f"norm.{kind}"]
    for name, value in weights.items():
        if not name.startswith("blocks."):
            continue
        _, number, layer, kind = [*name.split(".", 2)[:2], *name.split(".", 2)[2].rsplit(".", 1)]
        block = f"trf_blocks.{number}"
        if layer in norms:
            yield f"{block}.{norms[layer]}.{norm[kind]}", value
        elif layer != "attention.qkv":
            yield f"{block}.{layers[layer]}.{kind}", value
        elif fast:
            yield f"{block}.att.qkv.{kind}", value
        else:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                yield f"{block}.att.W_{part}.{kind}", piece
