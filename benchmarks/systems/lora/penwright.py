"""Our own loop: `training.loop.run.Run` with the task of `penwright-train instruct`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.systems.training import base, penwright
from benchmarks.systems.training.loops import Loop
from training.loop.run import Batch
from training.objectives.conversations import Conversation, Conversations
from training.objectives.responses import InstructionTuning
from training.tuning.methods import Method, load_tunable, start_tuning
from training.tuning.template import AUTO, template_of

_ROWS = 16
"""Of the validation part, which no timed step looks at."""


class Penwright(penwright.Penwright):
    """
    Args:
        source: the base, as `--base` takes it.
        targets: of the adapter, as `--lora-targets` takes them.
        frozen: how the base is held, as `--frozen` takes it.
        options: fields of `LoopSettings` that are not as they come.
    """

    def __init__(
        self,
        work: Path,
        threads: int,
        *,
        shape: dict[str, Any],
        device: str,
        source: str,
        targets: Sequence[str] = (),
        frozen: str = "auto",
        **options: Any,
    ) -> None:
        torch.set_num_threads(threads)
        self.shape = tuned = base.Tuned(**shape)
        settings = penwright.settings_of(tuned, device, threads, options)
        self.device = settings.torch_device
        method = Method(rank=tuned.rank, alpha=tuned.alpha, targets=tuple(targets), frozen=frozen)
        method.check(("lora",), settings)
        held = method.held(settings)
        loaded = load_tunable(Path(source), held)
        adapters = method.adapters(settings)
        tuning = start_tuning(loaded, method.name, adapters, None, settings, held)
        rows = _conversations(work, tuned.context)
        few = Conversations(rows.found[:_ROWS], ())
        task = _Gated(tuning, rows, few, settings, template_of(loaded, AUTO))
        self.start(task, settings, work, threads)
        assert tuning.network.lora is not None
        self.settings |= {"held": held, "targets": list(tuning.network.lora.settings.targets)}


class _Gated(InstructionTuning):
    loop: Loop | None = None

    def batch(self, examples: Sequence[int]) -> Batch:
        if self.loop is not None:
            self.loop.between_steps()
        return super().batch(examples)


def _conversations(work: Path, context: int) -> Conversations:
    """The windows of the text: each token but the first of a window is learnt."""
    windows = base.Windows(work, context)
    found = []
    for index in range(len(windows)):
        inputs, targets = windows[index]
        tokens = (*inputs.tolist(), int(targets[-1]))
        found.append(Conversation(tokens, (True,) * len(tokens)))
    return Conversations(tuple(found), ())
