"""The one training loop. A task supplies data, loss and metrics, and nothing else.

A run works in a directory of its own, which is private to training:

    metrics.jsonl     a line per logged step and per evaluation
    loss.png          the same as a plot
    state/last.pt     weights, optimizer, step and random state: `--resume` goes on from here
    state/best.pt     the trained weights of the best evaluation

What is published for serving is a checkpoint, which the task writes at the end.

On a CPU, with the same versions and threads, a resumed run equals the uninterrupted one bit for
bit: which examples a step sees depends on seed and step alone, evaluation leaves the random state
as it was, and the state is saved whole.
"""

import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.atomic import write_file, writing
from model.errors import PenwrightError, UsageError
from training import state as saved_state
from training.data.text import ShuffledOrder
from training.memory import keep_freed_memory
from training.optim import Optimizer
from training.report import plot_loss, read_metrics
from training.schedule import Schedule
from training.settings import LoopSettings

_LENGTH = ("steps", "epochs", "tokens")


@dataclass(frozen=True)
class Batch:
    """Examples of one forward pass."""

    inputs: Tensor
    """Token ids, (batch, time)."""
    targets: Tensor
    """What is to be predicted: token ids, (batch, time), or labels, (batch,)."""
    lengths: Tensor
    """Real tokens of each row, (batch,); what follows them is padding."""
    count: int
    """How many items the loss is a mean over: target tokens, or rows."""

    @property
    def tokens(self) -> int:
        """Tokens computed, for the rate."""
        return self.inputs.numel()


class Task(Protocol):
    """What differs between trainings."""

    name: str
    examples: int
    """Training examples in an epoch."""
    tokens_per_example: int
    """For `--tokens`: the usual length of an example."""
    keep_best: bool
    """Whether the weights of the best evaluation are published, or those of the last step."""

    @property
    def lengths(self) -> Sequence[int] | None:
        """Of each example, where they differ: batches are then made of similar ones."""

    @property
    def trained(self) -> nn.Module:
        """Holds the parameters that learn (those with `requires_grad`)."""

    def batch(self, examples: Sequence[int]) -> Batch:
        """The batch that holds the examples of these indices."""

    def loss(self, batch: Batch) -> Tensor:
        """The loss summed over the batch's `count` items."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on fixed batches of the validation part; has `val_loss`."""

    def samples(self) -> list[str]:
        """Text that shows what the network does so far."""


@dataclass
class Progress:
    """Where a run is. All of it is saved and restored."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    bad_evaluations: int = 0
    """Evaluations since the best one."""


class Stopped(PenwrightError):
    """The run was asked to stop; its state is saved."""


class Run:
    """One training of one task in one directory."""

    def __init__(self, task: Task, settings: LoopSettings, directory: Path) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        keep_freed_memory()
        self.task = task
        self.settings = settings
        self.directory = directory
        self.device = settings.torch_device
        self.steps = settings.total_steps(task.examples, task.tokens_per_example)
        self.schedule = Schedule(
            self.steps, settings.warmup, settings.schedule, final=settings.final_lr
        )
        self.optimizer = Optimizer(
            [task.trained],
            kind=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
        )
        self.order = ShuffledOrder(task.examples, settings.seed, task.lengths, settings.batch_size)
        self.progress = Progress()
        self.metrics_file = directory / "metrics.jsonl"

    def train(self, *, resume: bool = False, describe: Mapping[str, Any] | None = None) -> Progress:
        """Train to the end, or until patience runs out.

        Args:
            resume: go on from the saved state of this directory.
            describe: further settings that a resumed run must share (data, preset, …).

        Raises:
            UsageError: nothing to resume, or it was trained with other settings.
            Stopped: SIGINT or SIGTERM came; the state is saved.
            PenwrightError: the loss or the gradient is not finite; names the step.
        """
        identity = {**asdict(self.settings), **(describe or {})}
        with writing(self.directory):
            (self.directory / "state").mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.settings.seed)
        if resume:
            self._load(identity)
        else:
            saved_state.forget(self.directory)
            write_file(self.metrics_file, b"")
            self._evaluate()
        self.task.trained.train()
        with _stop_requests() as stop, self._progress_bar() as bar:
            while self.progress.step < self.steps and not self._out_of_patience():
                record = self._step()
                bar.update(record["batch_tokens"])
                bar.set_postfix_str(
                    f"step {self.progress.step} loss {record['loss']:.3f}", refresh=False
                )
                last = self.progress.step == self.steps
                self._log(record)
                if last or self.progress.step % self.settings.eval_every == 0:
                    self._evaluate(bar)
                if stop.requested or last or self.progress.step % self.settings.save_every == 0:
                    self._save(identity)
                if stop.requested and not last:
                    raise Stopped(
                        f"stopped at step {self.progress.step} of {self.steps}; "
                        "the same command with --resume goes on"
                    )
        best = saved_state.best_state(self.directory)
        if self.task.keep_best and best.exists():
            self.task.trained.load_state_dict(torch.load(best, map_location=self.device))
        plot_loss(self.metrics_file, self.directory / "loss.png")
        self.task.trained.eval()
        return self.progress

    def _step(self) -> dict[str, Any]:
        """One optimizer step, over `accumulate` batches."""
        started = time.perf_counter()
        settings, progress = self.settings, self.progress
        first = progress.step * settings.batch_size * settings.accumulate
        batches = [
            self.task.batch(
                [
                    self.order[first + pass_ * settings.batch_size + row]
                    for row in range(settings.batch_size)
                ]
            )
            for pass_ in range(settings.accumulate)
        ]
        # The mean is over the items of the whole step, however they fall into its batches.
        count = sum(batch.count for batch in batches)
        if not count:
            raise PenwrightError(f"step {progress.step}: no example of its batches has a target")
        loss = 0.0
        for batch in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.autocast):
                part = self.task.loss(batch) / count
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        self._check_finite("the loss", loss)
        norm = float(self.optimizer.clip(settings.clip or math.inf))
        self._check_finite("the norm of the gradient", norm)
        factor = self.schedule.factor(progress.step)
        self.optimizer.step(factor)
        tokens = sum(batch.tokens for batch in batches)
        seconds = time.perf_counter() - started
        progress.step += 1
        progress.tokens += tokens
        progress.seconds += seconds
        return {
            "step": progress.step,
            "loss": loss,
            "lr": settings.lr * factor,
            "grad_norm": norm,
            "tokens": progress.tokens,
            "batch_tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1),
        }

    def _check_finite(self, what: str, value: float) -> None:
        """Before the optimizer's step: weights and saved state are still good."""
        if math.isfinite(value):
            return
        last = saved_state.last_state(self.directory)
        good = f"the last good state is {last}" if last.exists() else "no state is saved yet"
        raise PenwrightError(
            f"{what} is {value} at step {self.progress.step}; {good}: "
            "try a lower --lr or a longer --warmup"
        )

    def _evaluate(self, bar: "tqdm[Any] | None" = None) -> None:
        """Measure, without a trace in the training's random state."""
        with torch.random.fork_rng(), torch.no_grad():
            self.task.trained.eval()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.autocast):
                metrics = self.task.evaluate()
            samples = self.task.samples() if self._samples_due() else []
            self.task.trained.train()
        self._log({"step": self.progress.step, "tokens": self.progress.tokens, **metrics})
        plot_loss(self.metrics_file, self.directory / "loss.png")
        line = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print_above = bar.write if bar is not None else print
        print_above(f"step {self.progress.step}: {line}")
        for sample in samples:
            print_above(f"  | {sample}")
        if metrics["val_loss"] < self.progress.best_loss:
            self.progress.best_loss = metrics["val_loss"]
            self.progress.bad_evaluations = 0
            if self.task.keep_best:
                saved_state.save(
                    self.task.trained.state_dict(), saved_state.best_state(self.directory)
                )
        else:
            self.progress.bad_evaluations += 1

    def _samples_due(self) -> bool:
        """At the first evaluation at or after each multiple of `sample_every`, 0 included."""
        step, every = self.progress.step, self.settings.sample_every
        if not every or not step:
            return bool(every)
        before = (step - 1) // self.settings.eval_every * self.settings.eval_every
        return step // every > before // every

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.bad_evaluations

    def _log(self, record: dict[str, Any]) -> None:
        with writing(self.metrics_file), self.metrics_file.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _progress_bar(self) -> "tqdm[Any]":
        per_step = (
            self.settings.batch_size * self.settings.accumulate * self.task.tokens_per_example
        )
        return tqdm(
            total=self.steps * per_step,
            initial=self.progress.tokens,
            unit="tok",
            unit_scale=True,
            desc=self.task.name,
            mininterval=0.2 if sys.stderr.isatty() else 30,
        )

    def _save(self, identity: Mapping[str, Any]) -> None:
        state = {
            "identity": dict(identity),
            "progress": asdict(self.progress),
            "trained": self.task.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        saved_state.save(state, saved_state.last_state(self.directory))

    def _load(self, identity: Mapping[str, Any]) -> None:
        state = saved_state.load(self.directory)
        saved_state.check_same(state, identity, free=self._may_change(state))
        self.progress = Progress(**state["progress"])
        best = saved_state.best_state(self.directory)
        if self.task.keep_best and math.isfinite(self.progress.best_loss) and not best.exists():
            raise UsageError(f"--resume: {best} is missing; start again without --resume")
        self.task.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"]:
            torch.cuda.set_rng_state_all(state["cuda_random"])
        # Lines of steps after the saved one belong to work that is now done again.
        records = read_metrics(self.metrics_file) if self.metrics_file.exists() else []
        kept = [record for record in records if record["step"] <= self.progress.step]
        write_file(self.metrics_file, "".join(json.dumps(r) + "\n" for r in kept).encode())

    def _may_change(self, state: Mapping[str, Any]) -> Sequence[str]:
        """A run may be made longer or shorter when neither length has an effect on any step that
        is done: none of them decayed, in the saved run as in this one."""
        length = {name: state["identity"][name] for name in _LENGTH}
        saved = replace(self.settings, **length)
        saved_steps = saved.total_steps(self.task.examples, self.task.tokens_per_example)
        steady = min(
            self.schedule.steady_until(), replace(self.schedule, steps=saved_steps).steady_until()
        )
        return _LENGTH if state["progress"]["step"] <= steady else ()


@dataclass
class _StopRequest:
    requested: bool = False


@contextlib.contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    """Take SIGINT and SIGTERM as a request to stop after the step; a second one kills."""
    request = _StopRequest()
    previous: dict[int, Any] = {}

    def handle(number: int, frame: object) -> None:
        request.requested = True
        signal.signal(number, previous[number] or signal.SIG_DFL)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: whoever owns that one stops us
        previous.clear()
    try:
        yield request
    finally:
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)
