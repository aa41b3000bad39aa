"""One of several processes that train together; `test_distributed.py` starts them.

    RANK=0 WORLD_SIZE=2 … python -m tests.training.loop.worker RUNS.json

The file lists runs that are made one after another, each with a port of its own.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.architecture import Architecture
from model.errors import DataError, PenwrightError
from model.rope import Rope
from model.transformer import Transformer
from training.loop import distributed
from training.loop.prepare import prepare
from training.loop.run import Batch, Run
from training.loop.settings import LoopSettings
from training.loop.task import IGNORE
from training.objectives import cross_entropy
from training.objectives.cross_entropy import token_loss

ROWS = cross_entropy._ROWS
EXAMPLES, TIME = 24, 12
GPT2 = Architecture(50, TIME, n_layer=2, n_head=2, n_embd=16)
MODERN = replace(
    GPT2,
    n_kv_head=1,
    head_dim=12,
    mlp_width=40,
    norm="rms",
    mlp="swiglu",
    bias="none",
    qk_norm=True,
    tied=False,
    rope=Rope(),
)


class Tokens:
    """Next tokens of random rows, of which each has another number of targets."""

    name = "tokens"
    keep_best = True
    examples = EXAMPLES
    lengths = None
    tokens_per_example = TIME

    def __init__(
        self,
        event: str = "",
        dropout: float = 0.0,
        directory: Path = Path(),
        *,
        modern: bool = False,
    ) -> None:
        config = MODERN if modern else GPT2
        self.trained = Transformer(config, dropout)
        self.trained.init_weights(torch.Generator().manual_seed(3))
        draw = torch.Generator().manual_seed(4)
        self.rows = torch.randint(50, (EXAMPLES, TIME + 1), generator=draw)
        self.hidden = torch.randint(1, TIME, (EXAMPLES,), generator=draw)
        self.event = event
        self.directory = directory
        self.batches = 0

    def batch(self, examples: Sequence[int]) -> Batch:
        self.batches += 1
        if self.batches == 3:
            self.happen()
        rows = self.rows[list(examples)]
        targets = rows[:, 1:].clone()
        for target, hidden in zip(targets, self.hidden[list(examples)].tolist(), strict=True):
            target[:hidden] = IGNORE
        count = int((targets != IGNORE).sum())
        return Batch(rows[:, :-1], targets, torch.full((len(rows),), TIME), count)

    def happen(self) -> None:
        """In the second process alone: what the run is about."""
        if distributed.rank() != 1:
            return
        if self.event == "fail":
            raise DataError("row 7 is broken")
        if self.event == "hang":
            while not (self.directory / "error-0").exists():
                time.sleep(0.1)
        if self.event == "stop":
            os.kill(os.getpid(), signal.SIGTERM)

    def loss(self, batch: Batch) -> Tensor:
        total, _ = token_loss(self.trained, self.trained(batch.inputs), batch.targets)
        return total

    def evaluate(self) -> dict[str, float]:
        assert type(self.trained.embedding.weight.data) is Tensor  # nobody meets a shard here
        batch = Tokens.batch(self, range(EXAMPLES))
        self.batches -= 1
        return {"val_loss": self.loss(batch).item() / batch.count}

    def samples(self) -> list[str]:
        return []


def settings(**changes: Any) -> LoopSettings:
    values: dict[str, Any] = {"steps": 4, "batch_size": 4, "warmup": 1, "lr": 0.01}
    values |= {"eval_every": 4, "precision": "fp32", "device": "cpu", "clip": 0.5}
    return LoopSettings(**{**values, **changes})


def run(plan: dict[str, Any]) -> None:
    """One run; its error, if any, becomes a file."""
    directory = Path(plan["directory"])
    changes = plan.get("settings", {})
    os.environ["MASTER_PORT"] = str(plan.get("port", 0))
    code = 0
    cross_entropy._ROWS = plan.get("rows", ROWS)
    try:
        with distributed.processes("cpu", plan.get("timeout", 240)):
            dropout, modern = changes.get("dropout", 0.0), plan.get("modern", False)
            task = Tokens(plan.get("event", ""), dropout, directory, modern=modern)
            prepare(task.trained, settings(**changes))
            Run(task, settings(**changes), directory).train(resume=plan.get("resume", False))
            torch.save(task.trained.state_dict(), directory / "end.pt")
    except SystemExit as end:
        code = int(end.code or 0)
    except PenwrightError as error:
        code = 1
        (directory / f"error-{os.environ['RANK']}").write_text(str(error))
        if plan.get("event") != "stop":
            distributed.abandon(code)
    (directory / f"code-{os.environ['RANK']}").write_text(str(code))


def keep(directory: Path, copy: Path) -> None:
    """The run as it is now, before it goes on."""
    if os.environ["RANK"] == "0":
        while not (directory / "code-1").exists():
            time.sleep(0.05)
        shutil.copytree(directory, copy)
        (directory / "code-1").unlink()
    while (directory / "code-1").exists():
        time.sleep(0.05)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for plan in json.loads(Path(sys.argv[1]).read_text()):
        run(plan)
        if "copy" in plan:
            keep(Path(plan["directory"]), Path(plan["copy"]))
