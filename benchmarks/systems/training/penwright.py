"""Our own loop: `training.loop.run.Run` with the task of `penwright-train pretrain`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.systems.training import base
from benchmarks.systems.training.loops import Loop
from model.architecture import Architecture
from model.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer
from model.transformer import Transformer
from training.data.tokens import TokenFiles
from training.loop.run import Batch, Run, Task
from training.loop.settings import LoopSettings
from training.objectives.next_tokens import Pretraining


class Penwright(base.TrainingSystem):
    """
    Args:
        options: fields of `LoopSettings` that are not as they come.
    """

    def __init__(
        self, work: Path, threads: int, *, shape: dict[str, Any], device: str, **options: Any
    ) -> None:
        torch.set_num_threads(threads)
        self.shape = shaped = base.Shape(**shape)
        settings = settings_of(shaped, device, threads, options)
        self.device = settings.torch_device
        config = Architecture(
            shaped.vocab_size,
            shaped.context,
            n_layer=shaped.n_layer,
            n_head=shaped.n_head,
            n_embd=shaped.n_embd,
        )
        model = Transformer(config)
        model.load_state_dict(base.weights_of(work))
        model.to(self.device)
        files = TokenFiles(
            base.tokens_of(work), np.memmap(work / "val.bin", np.uint16, mode="r"), sources=()
        )
        context = shaped.context
        task = _Gated(model, _tokenizer(), files, settings, context, context)
        self.start(task, settings, work, threads)

    def start(self, task: "Waits", settings: LoopSettings, work: Path, threads: int) -> None:
        """Prove the network of the task, and run its loop up to the first step."""
        batch = task.batch(range(self.shape.batch))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.autocast):
            loss = task.loss(batch) / batch.count
        self.proof = base.proof_of(task.trained, loss)
        self.run_directory = base.scratch(work)
        run = Run(task, settings, self.run_directory)
        task.loop = self.loop = Loop(lambda loop: _train(run), threads)
        self.loop.start()
        self.settings = {
            **{name: value for name, value in dataclasses.asdict(settings).items() if value},
            "autocast": settings.autocast,
            "torch": torch.__version__,
        }


class Waits(Task, Protocol):
    """A task whose batches come when the step is wanted: what came before is then logged."""

    loop: Loop | None


class _Gated(Pretraining):
    loop: Loop | None = None

    def batch(self, examples: Sequence[int]) -> Batch:
        if self.loop is not None:
            self.loop.between_steps()
        return super().batch(examples)


def _train(run: Run) -> None:
    run.train()


def settings_of(
    shape: base.Shape | base.Tuned, device: str, threads: int, options: dict[str, Any]
) -> LoopSettings:
    values: dict[str, Any] = {
        "steps": base.STEPS,
        "batch_size": shape.batch,
        "lr": base.LR,
        "warmup": base.WARMUP,
        "weight_decay": base.WEIGHT_DECAY,
        "clip": base.CLIP,
        "eval_every": base.STEPS,
        "eval_batches": 1,
        "save_every": base.STEPS,
        "device": device,
        "threads": threads,
    }
    return LoopSettings(**{**values, **options})


def _tokenizer() -> Tokenizer:
    """Of bytes: the task wants one, and no step uses it."""
    return Tokenizer({bytes([i]): i for i in range(256)}, GPT2_PATTERN, {END_OF_TEXT: 256})
