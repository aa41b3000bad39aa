"""The course of every training: prepare, train, round, measure, publish."""

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import Adapter, Base
from model.checkpoint.files import check_target, check_writable
from model.cpu.quantize import return_freed_memory
from model.errors import UsageError
from model.transformer import Transformer
from training.data.order import Order
from training.data.splits import Parts
from training.loop.dry_run import dry_run
from training.loop.memory import peak
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.loop.state import Progress
from training.loop.task import Task
from training.report.tables import print_metrics
from training.tuning.card import run_fields
from training.tuning.methods import Tuning
from training.tuning.publishing import round_as_saved


@dataclass(frozen=True)
class Job:
    """Where a training works, and what it publishes."""

    out: Path
    """The checkpoint directory."""
    run: Path | None = None
    """Directory of the run; by default `OUT.run`."""
    resume: bool = False
    """Whether to go on from the state saved there."""
    dry_run: bool = False
    """Whether to take a few steps alone, print what all would take, and leave nothing behind."""
    licences: tuple[str, ...] = ()
    """Source and licence of data, for the card."""
    command: str | None = None
    """The command line, for the card."""

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """The directory of the run, which a dry run deletes when it ends.

        Raises:
            UsageError: nothing could be published at `out`, or not without the run; or a dry run is
                to be resumed, or has several processes.
        """
        check_target(self.out)
        if not self.dry_run:
            place = self.run or Path(os.path.abspath(self.out) + ".run")
            if place.resolve().is_relative_to(self.out.resolve()):
                raise UsageError(
                    f"--run {place} is or lies in --out {self.out}, which is replaced as a whole; "
                    "name a directory beside it"
                )
            if place.exists() and not place.is_dir():
                raise UsageError(f"--run {place} is a file; name a directory")
            check_writable(place, "--run")
            yield place
            return
        if self.resume:
            raise UsageError("--dry-run with --resume: it trains nothing, so give one of them")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError("--dry-run measures one process; start it without torchrun")
        with tempfile.TemporaryDirectory(prefix="penwright-") as directory:
            yield Path(directory)


class Training(ABC):
    """One training whose data are read and whose network stands."""

    name: str
    """Of the task, for the card."""
    task: Task
    model: Transformer
    """Its network, frozen or not."""
    identity: Mapping[str, Any]
    """What a resumed run must share with the first, beside the loop's settings and the parts."""
    order: Order | None = None
    """Of the examples; by default shuffled anew each epoch."""
    tuning: Tuning | None = None
    """Of a fine-tuning: the base and what is tuned on it."""
    parts: Parts | None = None
    """Which rows train, validate and test."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What is published, in a few words."""

    @abstractmethod
    def measure(self, progress: Progress, directory: Path) -> dict[str, Any]:
        """What the card says of this training, `metrics` among it; weights are as they are saved.

        Args:
            directory: of the run, for what is kept there.
        """

    @abstractmethod
    def rehearse_measuring(self) -> None:
        """Take the memory that `measure` takes at most, in a moment."""

    @abstractmethod
    def publish(self, out: Path, card: dict[str, Any]) -> Base | Adapter:
        """Write the checkpoint."""


def train(
    training: Training, settings: LoopSettings, job: Job, directory: Path
) -> Base | Adapter | None:
    """Train, measure and publish; of a dry run, print what that would take.

    Args:
        directory: of the run.

    Raises:
        UsageError: settings do not fit the data, or those of the run that is to be resumed.
        Stopped: SIGINT or SIGTERM came; the state is saved.
        PenwrightError: something cannot be written; names it.
    """
    if training.tuning is not None:
        training.tuning.freeze()
    if job.dry_run:
        found = dry_run(Run(training.task, settings, directory, training.order), training.model)
        _rehearse(training, directory / "checkpoint")
        found.report(peak(settings.torch_device))
        return None
    run = Run(training.task, settings, directory, training.order)
    identity = dict(training.identity)
    if training.parts is not None:
        identity["parts"] = training.parts.digest
    progress = run.train(resume=job.resume, describe=identity)
    del run  # and the optimizer's state, which what follows needs no more
    _end(training)
    card = {
        "task": training.name,
        **run_fields(settings, progress, command=job.command, licences=job.licences),
        **training.measure(progress, directory),
    }
    checkpoint = training.publish(job.out, card)
    print_metrics(card["metrics"])
    print(f"{job.out}: {training.what} {checkpoint.id[:12]}")
    return checkpoint


def _end(training: Training) -> None:
    """From weights in training to those that are measured and published."""
    training.task.trained.eval()
    if training.tuning is not None:
        training.tuning.settle()
    round_as_saved(training.task.trained)
    return_freed_memory()  # what the steps took, in pieces that fit nothing else
    if training.tuning is not None:
        training.tuning.serve()


def _rehearse(training: Training, out: Path) -> None:
    """Take what follows the last step, for the memory that it needs: the base as it is served, the
    heaviest part of the measuring, and the publishing."""
    _end(training)
    training.rehearse_measuring()
    training.publish(out, {})
