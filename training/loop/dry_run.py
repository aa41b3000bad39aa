"""`--dry-run`: what a training would take, from a few of its real steps; nothing is left behind."""

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.transformer import Transformer
from training.loop.compute import Compute, count, counted_flops
from training.loop.run import Run
from training.loop.task import IGNORE, Batch, Task

_WARMUP, _STEPS = 1, 3  # steps that are taken; the first one is counted and not timed


@dataclass(frozen=True)
class Memory:
    """Bytes that a step needs."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What one forward pass keeps for its backward pass, on the largest batch."""
    largest: tuple[int, int]
    """Rows and tokens of that batch."""


@dataclass(frozen=True)
class Timing:
    """What was timed."""

    steps: tuple[float, ...]
    """Seconds of each step."""
    tokens_per_second: float
    """The median of the steps'."""
    tokens_per_example: float
    """Padding included: the mean of an epoch, in batches as they come."""
    evaluation: float
    """Seconds of one evaluation."""
    counted: float
    """Floating-point operations a token of the first step, as they were done."""


@dataclass(frozen=True)
class Findings:
    """What a few steps have shown."""

    parameters: str
    memory: Memory
    work: list[str]
    device: torch.device

    def report(self, peak: int) -> None:
        """Print what all of the run would take.

        Args:
            peak: bytes, measured up to now: of the whole process on a CPU, of torch's allocations
                on a GPU.
        """
        for line in (self.parameters, *_memory_lines(self.memory, peak, self.device), *self.work):
            print(line)


def dry_run(run: Run, model: Transformer) -> Findings:
    """Take a few steps of `run`, to see what all of it would take.

    Args:
        model: the network of its task, frozen or not.
    """
    task, device = run.task, run.device
    torch.manual_seed(run.settings.seed)
    task.trained.train()
    batch = task.batch(_largest(task, run.settings.batch_size))
    activations = _activations(run, batch, [model, task.trained])
    timing = _time(run, _tokens_per_example(run, batch))
    parameters = _distinct([model, task.trained])
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    memory = Memory(
        weights=_bytes(parameters) + _bytes(model.buffers()),
        gradients=_bytes(learning),
        optimizer=_optimizer_bytes(run),
        activations=activations,
        largest=(batch.inputs.shape[0], batch.inputs.shape[1]),
    )
    length = timing.tokens_per_example * run.settings.batch_size / len(batch.lengths)
    compute = count(model, task.trained, length, _share_of_outputs(batch))
    return Findings(
        f"parameters   {_numel(parameters):,}, of which {_numel(learning):,} learn",
        memory,
        _work_lines(run, timing, compute, length),
        device,
    )


def _largest(task: Task, rows: int) -> Sequence[int]:
    """Examples of the largest batch that there could be."""
    if task.lengths is None:
        return [index % task.examples for index in range(rows)]
    lengths = task.lengths
    return sorted(range(task.examples), key=lambda index: -lengths[index])[:rows]


def _tokens_per_example(run: Run, largest: Batch) -> float:
    """The mean over the batches of the first epoch, which are as long as their longest rows."""
    lengths, size = run.task.lengths, run.settings.batch_size
    if lengths is None:
        return run.task.tokens_per_example
    epoch = [lengths[run.order[position]] for position in range(run.task.examples)]
    longest = [max(epoch[start : start + size]) for start in range(0, len(epoch), size)]
    # A task may make several rows of an example, and leave out a token that has no target.
    per_length = largest.tokens / (max(lengths) * min(size, run.task.examples))
    return statistics.mean(longest) * per_length


def _share_of_outputs(batch: Batch) -> float:
    """Of the positions, those whose next token is predicted; none where rows get labels."""
    if batch.targets.ndim < 2:
        return 0.0
    return float((batch.targets != IGNORE).float().mean())


def _activations(run: Run, batch: Batch, modules: Sequence[nn.Module]) -> int:
    """Bytes that a forward pass on `batch` keeps for the backward pass, which follows."""
    weights = {
        tensor.untyped_storage().data_ptr()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=run.settings.autocast)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        loss = run.task.loss(batch)
    total = sum(kept.values())  # before the backward pass of checkpointed blocks keeps more
    loss.backward()  # type: ignore[no-untyped-call]
    run.task.trained.zero_grad(set_to_none=True)
    return total


def _time(run: Run, tokens_per_example: float) -> Timing:
    """Take a few steps and one evaluation."""
    records: list[dict[str, Any]] = []
    seconds: list[float] = []
    done = counted_flops(lambda: records.append(run.step()))
    seconds.append(math.inf)  # counting takes time
    for _ in range(_STEPS):
        started = time.perf_counter()
        records.append(run.step())
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    run.task.trained.eval()
    autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=run.settings.autocast)
    with torch.no_grad(), autocast:
        run.task.evaluate()
    evaluation = time.perf_counter() - started
    with closing(run.log):  # drawing takes memory, too
        run.log.start()
        for record in records:
            run.log.add(record)
        run.log.plot()
    return Timing(
        steps=tuple(seconds[_WARMUP:]),
        tokens_per_second=statistics.median(r["tokens_per_second"] for r in records[_WARMUP:]),
        tokens_per_example=tokens_per_example,
        evaluation=evaluation,
        counted=done / records[0]["batch_tokens"],
    )


def _memory_lines(memory: Memory, peak: int, device: torch.device) -> list[str]:
    needed = memory.weights + memory.gradients + memory.optimizer + memory.activations
    rows, length = memory.largest
    what = "resident, the whole process" if device.type == "cpu" else "allocated by torch"
    return [
        f"memory       weights {_mb(memory.weights)}, gradients {_mb(memory.gradients)}, "
        f"optimizer {_mb(memory.optimizer)},",
        f"             activations {_mb(memory.activations)} (largest batch, {rows} × {length} "
        f"tokens): {_mb(needed)} in all",
        f"             measured peak: {_mb(peak)} {what}, with loading, measuring",
        "             and publishing",
    ]


def _work_lines(run: Run, timing: Timing, compute: Compute, length: float) -> list[str]:
    settings, task, each = run.settings, run.task, timing.tokens_per_example
    examples = run.steps * settings.batch_size * settings.accumulate
    tokens = examples * each
    evaluations = 1 + -(-run.steps // settings.eval_every)
    training = tokens / timing.tokens_per_second
    speed = compute.flops * timing.tokens_per_second
    return [
        f"compute      {compute.flops / 1e6:,.1f} million operations a token: 2 × "
        f"({compute.forward / 1e6:,.2f} forward + {compute.back / 1e6:,.2f} back "
        f"+ {compute.learns / 1e6:,.2f} learning)",
        f"             + {compute.attention / 1e6:,.2f} for attention at "
        f"{length:,.0f} tokens (PaLM, appendix B: 6 N + 12 L d T)",
        f"             counted in a step: {timing.counted / 1e6:,.1f} million a token",
        f"data         {task.examples:,} examples of about {each:,.0f} tokens: "
        f"{task.examples * each:,.0f} tokens an epoch",
        f"length       {run.steps:,} steps of {settings.batch_size} × {settings.accumulate} "
        f"examples: {examples / task.examples:,.2f} epochs, {tokens:,.0f} tokens",
        f"speed        {timing.tokens_per_second:,.0f} tokens/s, {speed / 1e9:,.0f} GFLOP/s (steps "
        f"of {', '.join(f'{seconds:.2f}' for seconds in timing.steps)} s, after a warm-up)",
        f"time         about {_duration(training + evaluations * timing.evaluation)}: "
        f"{_duration(training)} of steps, {evaluations} evaluations of "
        f"{_duration(timing.evaluation)}",
    ]


def _distinct(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of all modules, each once."""
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def _numel(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _optimizer_bytes(run: Run) -> int:
    """Of the state that its steps have made."""
    return _bytes(
        value
        for optimizer in run.optimizer.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
