"""The one training loop. A task supplies data, loss and metrics, and nothing else.

A run works in a directory of its own, which is private to training:

    metrics.jsonl     a line per logged step and per evaluation
    loss.png          the same as a plot
    tensorboard/      the same as event files, with `--tensorboard`
    state/last.pt     weights, optimizer, step and random state: `--resume` goes on from here
    state/best.pt     the trained weights of the best evaluation that last.pt knows of
    bad-step.json     the step that stopped the run, with the indices of its examples

What is published for serving is a checkpoint, which the task writes at the end.

On a CPU, with the same versions and threads, a resumed run equals the uninterrupted one bit for
bit: which examples a step sees depends on seed and step alone, evaluation leaves the random state
as it was, and the state is saved whole. Several processes (`training.loop.distributed`) equal one
within rounding: they share out the examples of each step.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.checkpoint.atomic import writing
from model.errors import UsageError
from training.data.order import Order, ShuffledOrder
from training.loop import best, distributed, snapshot
from training.loop import state as saved_state
from training.loop.guards import WINDOW, BadStep, Stopped, complaint, stop_at, stop_requests
from training.loop.log import MetricsLog
from training.loop.memory import keep_freed_memory
from training.loop.optimizer import Optimizer
from training.loop.replica import Replica
from training.loop.schedule import Schedule
from training.loop.settings import LENGTHS, LoopSettings
from training.loop.state import Progress
from training.loop.task import Batch, Task

__all__ = ["BadStep", "Batch", "Progress", "Run", "Stopped", "Task"]


class Run:
    """One training of one task in one directory."""

    def __init__(
        self, task: Task, settings: LoopSettings, directory: Path, order: Order | None = None
    ) -> None:
        """`order` is the one in which examples come: by default shuffled anew each epoch."""
        if settings.threads:
            torch.set_num_threads(settings.threads)
        keep_freed_memory()
        self.task = task
        self.settings = settings
        self.directory = directory
        self.device = settings.torch_device
        self.steps = settings.total_steps(task.examples, task.tokens_per_example)
        self.schedule = Schedule(
            self.steps,
            settings.warmup_steps(self.steps),
            settings.schedule,
            settings.final_lr,
            settings.decay,
        )
        self.shares = settings.shares(distributed.size())
        self.replica = _replica(task.trained, settings.parallel, self.device)
        self.optimizer = Optimizer(
            [task.trained],
            kind=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
        )
        self.order = order or ShuffledOrder(
            task.examples, settings.seed, task.lengths, settings.batch_size
        )
        self.progress = Progress()
        self.log = MetricsLog(
            directory, tensorboard=settings.tensorboard, silent=not distributed.first()
        )

    def train(self, *, resume: bool = False, describe: Mapping[str, Any] | None = None) -> Progress:
        """Train to the end, or until patience runs out. Of several processes, the first returns.

        Args:
            resume: go on from the saved state of this directory.
            describe: further settings that a resumed run must share (data, preset, …).

        Raises:
            UsageError: nothing to resume, or it was trained with other settings.
            Stopped: SIGINT or SIGTERM came; the state is saved.
            BadStep: the loss or the gradient is not finite, or the loss has a spike; names the
                step and its examples. Nothing of the step is in the weights or the saved state.
        """
        settings = {**self.settings.identity(), "warmup": self.schedule.warmup}
        identity = {**settings, **(describe or {})}
        with writing(self.directory):
            (self.directory / "state").mkdir(parents=True, exist_ok=True)
        torch.manual_seed((self.settings.seed + distributed.rank()) % 2**63)
        if resume:
            self._resume(identity)
        else:
            if distributed.first():
                # In this order: a state never stands without its best weights.
                saved_state.forget(self.directory)
                best.forget(self.directory)
            self.log.start()
            self._evaluate()
        self.task.trained.train()
        with stop_requests() as stop, self._progress_bar() as bar, closing(self.log):
            while self.progress.step < self.steps and not self._out_of_patience():
                record = self.step()
                bar.update(record["batch_tokens"])
                bar.set_postfix_str(
                    f"step {self.progress.step} loss {record['loss']:.3f}", refresh=False
                )
                last = self.progress.step == self.steps
                self.log.add(record)
                if last or self.progress.step % self.settings.eval_every == 0:
                    self._evaluate(bar)
                    last = last or self._out_of_patience()
                (stops,) = distributed.total(stop.requested)
                if stops or last or self.progress.step % self.settings.save_every == 0:
                    self._save(identity)
                if stops and not last:
                    raise Stopped(
                        f"stopped at step {self.progress.step} of {self.steps}; "
                        "the same command with --resume goes on"
                    )
        self.replica.close()
        distributed.leave()
        if self.keeps_best:
            weights = best.load(self.directory, self.progress, self.device)
            self.task.trained.load_state_dict(weights)
        self.log.plot()
        self.task.trained.eval()
        return self.progress

    def step(self) -> dict[str, Any]:
        """One optimizer step, over this process's share of its examples."""
        started = time.perf_counter()
        settings, progress = self.settings, self.progress
        batches = [
            self.task.batch([self.order[self._first + i] for i in share])
            for share in self.shares[distributed.rank()]
        ]
        # The mean is over the items of the whole step, however they fall into its batches.
        count, tokens = distributed.total(
            sum(batch.count for batch in batches), sum(batch.tokens for batch in batches)
        )
        if not count:
            raise BadStep(f"step {progress.step}: no example of its batches has a target")
        loss = 0.0
        for batch in batches:
            part = partial(self._loss, batch, count)
            loss += self.replica.backward(part, last=batch is batches[-1])
        (loss,) = distributed.total(loss)
        self._check(complaint(loss, progress.recent, settings.spike))
        norm = float(self.optimizer.clip(settings.clip or math.inf))
        if not math.isfinite(norm):
            self._check(f"the norm of the gradient is {norm}")
        factor = self.schedule.factor(progress.step)
        self.optimizer.step(factor)
        seconds = time.perf_counter() - started
        progress.step += 1
        progress.tokens += int(tokens)
        progress.seconds += seconds
        progress.recent = [*progress.recent, loss][-WINDOW:]
        return {
            "step": progress.step,
            "loss": loss,
            "lr": settings.lr * factor,
            "grad_norm": norm,
            "tokens": progress.tokens,
            "batch_tokens": int(tokens),
            "tokens_per_second": round(tokens / seconds, 1),
        }

    @property
    def keeps_best(self) -> bool:
        """Whether there are weights of a best evaluation, and they are what is published."""
        return self.task.keep_best and math.isfinite(self.progress.best_loss)

    @property
    def _first(self) -> int:
        """Where in the order the step begins."""
        return self.progress.step * self.settings.step_size

    def _loss(self, batch: Batch, count: float) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.autocast):
            return self.task.loss(batch) / count

    def _check(self, complaint: str) -> None:
        """Before the optimizer's step: weights and saved state are still good."""
        if complaint:
            examples = [self.order[self._first + i] for i in range(self.settings.step_size)]
            raise stop_at(self.progress.step, examples, complaint, self.directory)

    def _evaluate(self, bar: "tqdm[Any] | None" = None) -> None:
        """Measure, without a trace in the training's random state; in each process the same."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad(), self.replica.whole():
            self.task.trained.eval()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.autocast):
                metrics = self.task.evaluate()
            samples = self.task.samples() if self._samples_due() else []
            val_loss = distributed.of_first(metrics["val_loss"])
            if val_loss < self.progress.best_loss:
                self.progress.best_loss = val_loss
                self.progress.best_step = self.progress.step
                self.progress.bad_evaluations = 0
                if self.task.keep_best and distributed.first():
                    best.keep(self.directory, self.progress, self.task.trained.state_dict())
            else:
                self.progress.bad_evaluations += 1
            self.task.trained.train()
        self.log.add({"step": self.progress.step, "tokens": self.progress.tokens, **metrics})
        self.log.plot()
        line = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print_above = bar.write if bar is not None else print
        print_above(f"step {self.progress.step}: {line}")
        for sample in samples:
            print_above(f"  | {sample}")

    def _save(self, identity: Mapping[str, Any]) -> None:
        """Write `state/last.pt`. All processes come here together, and the first one writes.

        Args:
            identity: what a resumed run must share.
        """
        state: dict[str, Any] = {
            "format": saved_state.FORMAT,
            "identity": dict(identity),
            "progress": asdict(self.progress),
            "random": snapshot.random_states(self.device),
        }
        if self.settings.sharded_state:
            step = self.progress.step
            state |= snapshot.sharded(self.replica, self.optimizer, self.directory, step)
        else:
            state |= snapshot.gathered(self.replica, self.optimizer)
        if distributed.first():
            saved_state.save(state, saved_state.last_state(self.directory))
            best.settle(self.directory)
            saved_state.forget_shards(self.directory, keep=state.get("shards"))

    def _resume(self, identity: Mapping[str, Any]) -> None:
        """Go on where `_save` left the run, however many processes that was in.

        Raises:
            UsageError: there is nothing to resume, or it was trained with other settings.
            PenwrightError: what was saved cannot be read.
        """
        state = saved_state.load(self.directory)
        saved_state.check_same(state, identity, free=self._may_change(state))
        self.progress = Progress(**state["progress"])
        named = self.progress if self.keeps_best else None
        # Of a state that was put back by hand, the best weights may be those of the state itself.
        own = named is not None and named.best_step == named.step and best.exists(self.directory)
        if named is not None and not own:
            best.find(self.directory, named)
        snapshot.restore(state, self.replica, self.optimizer, self.directory)
        snapshot.restore_random(state)
        distributed.total(0)  # until all have looked, nothing moves
        with self.replica.whole() if own else nullcontext():
            if own and distributed.first():
                best.keep(self.directory, self.progress, self.task.trained.state_dict())
        if distributed.first():
            best.adopt(self.directory, named)
        self.log.go_on(self.progress.step)

    def _may_change(self, state: Mapping[str, Any]) -> Sequence[str]:
        """A run may be made longer or shorter when neither length has an effect on any step that
        is done: none of them decayed, in the saved run as in this one."""
        if state["identity"]["warmup"] != self.schedule.warmup:
            return LENGTHS  # that is what is in the way, and what is said
        saved = replace(self.settings, **{name: state["identity"][name] for name in LENGTHS})
        steps = saved.total_steps(self.task.examples, self.task.tokens_per_example)
        there = replace(self.schedule, steps=steps)
        steady = min(self.schedule.steady_until(), there.steady_until())
        return LENGTHS if state["progress"]["step"] <= steady else ()

    def _samples_due(self) -> bool:
        """At the first evaluation at or after each multiple of `sample_every`, 0 included."""
        step, every = self.progress.step, self.settings.sample_every
        if not every or not step:
            return bool(every)
        before = (step - 1) // self.settings.eval_every * self.settings.eval_every
        return step // every > before // every

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.bad_evaluations

    def _progress_bar(self) -> "tqdm[Any]":
        return tqdm(
            total=self.steps * self.settings.step_size * self.task.tokens_per_example,
            initial=self.progress.tokens,
            unit="tok",
            unit_scale=True,
            desc=self.task.name,
            mininterval=0.2 if sys.stderr.isatty() else 30,
            disable=not distributed.first(),
        )


def _replica(trained: nn.Module, parallel: str, device: torch.device) -> Replica:
    """The network, divided as `--parallel` says.

    Raises:
        UsageError: that does not fit how many processes there are.
    """
    size = distributed.size()
    if parallel == "none" and size > 1:
        raise UsageError(f"--parallel is none; with {size} processes it must be auto, ddp or fsdp")
    if parallel in ("ddp", "fsdp") and not distributed.joined():
        raise UsageError(
            f"--parallel is {parallel}, which is for processes that torchrun starts: "
            "torchrun --nproc-per-node N -m training.cli ..."
        )
    if parallel == "fsdp":
        from training.loop.sharding import ShardedReplica  # DTensor takes seconds to import

        return ShardedReplica(trained, device)
    return Replica(trained)
