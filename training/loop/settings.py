"""Settings of the training loop, as a dataclass and as command-line flags."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from model.errors import UsageError
from training.loop.optimizer import OPTIMIZERS
from training.loop.replica import PARALLEL
from training.loop.schedule import SCHEDULES

LENGTHS = ("steps", "epochs", "tokens")
"""What says how long a run is: one of them is given."""

_WARMUP_SHARE = 0.5
"""Of a short run, the most that is warm-up without being asked for."""


def _option(default: Any, help: str, *, free: bool = False, flag: bool = True) -> Any:
    """`free`: a resumed run may have another value, since no step depends on it."""
    return field(default=default, metadata={"help": help, "free": free, "flag": flag})


@dataclass(frozen=True)
class LoopSettings:
    """How a network is trained, whatever it is trained on.

    Each field but the last is a flag of the same name; 0 for steps, epochs or tokens means "not
    given".
    """

    steps: int = _option(0, "optimizer steps")
    epochs: float = _option(0.0, "passes over the training data")
    tokens: int = _option(0, "training tokens")
    batch_size: int = _option(8, "sequences per forward pass")
    accumulate: int = _option(
        1, "forward passes per optimizer step; several processes share its sequences out"
    )
    optimizer: str = _option("adamw", f"one of {', '.join(OPTIMIZERS)}")
    lr: float = _option(4e-4, "peak learning rate")
    schedule: str = _option("cosine", f"one of {', '.join(SCHEDULES)}")
    warmup: int = _option(0, "steps of linear warm-up")
    final_lr: float = _option(0.1, "learning rate at the end, as a share of the peak")
    decay: float = _option(0.2, "share of the steps over which the schedule wsd falls")
    weight_decay: float = _option(0.1, "decay of weight matrices")
    clip: float = _option(1.0, "largest norm of the gradient; 0 for none")
    dropout: float = _option(0.0, "dropout while training")
    eval_every: int = _option(100, "steps between evaluations")
    eval_batches: int = _option(50, "batches of an evaluation; 0 for all of the validation part")
    sample_every: int = _option(
        0, "steps between samples, printed with the next evaluation; 0: none"
    )
    patience: int = _option(0, "stop after this many evaluations without improvement; 0: never")
    save_every: int = _option(500, "steps between saved states, from which --resume goes on")
    precision: str = _option("auto", "fp32, bf16 (autocast), or auto: bf16 where it is fast")
    device: str = _option("auto", "cpu, cuda, or auto")
    threads: int = _option(0, "CPU threads; 0 for as many as there are cores")
    seed: int = _option(123, "of initial weights, order and dropout")
    spike: float = _option(
        0.0,
        "stop at a loss that many standard deviations above the mean of the last 100; 0: never",
        free=True,
    )
    checkpoint_activations: bool = _option(
        False, "compute blocks again backward, to hold less in memory", free=True
    )
    compile: bool = _option(False, "compile the blocks with torch.compile; takes minutes to start")
    parallel: str = _option(
        "auto", f"one of {', '.join(PARALLEL)}; auto: ddp where torchrun starts several", free=True
    )
    sharded_state: bool = _option(
        False, "with fsdp: each process saves its own part of the state", free=True
    )
    process_timeout: int = _option(
        1800, "seconds after which a process that does not answer is given up", free=True
    )
    tensorboard: bool = _option(False, "write event files for TensorBoard as well", free=True)
    warmup_gives_way: bool = _option(
        False, "whether the warm-up is a default, and shorter in a short run", free=True, flag=False
    )

    def __post_init__(self) -> None:
        if sum(bool(x) for x in (self.steps, self.epochs, self.tokens)) != 1:
            raise UsageError("give exactly one of --steps, --epochs and --tokens")
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if isinstance(value, float):
                self._check(option.name, math.isfinite(value), "a finite number")
        for name in ("batch_size", "accumulate", "eval_every", "save_every", "process_timeout"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in (
            *("steps", "epochs", "tokens", "warmup", "weight_decay", "clip", "eval_batches"),
            *("sample_every", "patience", "threads", "seed", "spike"),
        ):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        self._check("seed", self.seed < 2**63, "below 2^63")
        self._check("lr", self.lr > 0, "above 0")
        self._check("decay", 0 < self.decay <= 1, "in (0, 1]")
        self._check("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self._check("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        self._check("precision", self.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
        self._check("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda")
        self._check("parallel", self.parallel in PARALLEL, f"one of {', '.join(PARALLEL)}")
        if self.sharded_state and self.parallel != "fsdp":
            raise UsageError(
                f"--sharded-state is for --parallel fsdp; --parallel is {self.parallel}"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device is cuda; this machine has no usable CUDA device")

    def _check(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(self, name)}; it must be {allowed}")

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def autocast(self) -> bool:
        """Whether forward passes run under bf16 autocast."""
        if self.precision != "auto":
            return self.precision == "bf16"
        return _gpu_has_bf16() if self.torch_device.type == "cuda" else _cpu_has_bf16()

    def warmup_steps(self, steps: int) -> int:
        """Steps of warm-up in a run of `steps`: a default one is at most half of a short run."""
        if self.warmup_gives_way:
            return min(self.warmup, int(steps * _WARMUP_SHARE))
        return self.warmup

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the saved one."""
        return {
            option.name: getattr(self, option.name)
            for option in dataclasses.fields(self)
            if not option.metadata["free"]
        }

    @property
    def step_size(self) -> int:
        """Sequences of an optimizer step, of all processes together."""
        return self.batch_size * self.accumulate

    def shares(self, processes: int) -> list[list[range]]:
        """For each process its forward passes, each as places within the step.

        Raises:
            UsageError: the sequences of a step cannot be shared out evenly.
        """
        share, rest = divmod(self.step_size, processes)
        if rest:
            raise UsageError(
                f"--batch-size is {self.batch_size} and --accumulate {self.accumulate}; with "
                f"{processes} processes their product must be a multiple of {processes}"
            )
        starts = range(0, self.step_size, share)
        return [
            [
                range(i, min(i + self.batch_size, start + share))
                for i in range(start, start + share, self.batch_size)
            ]
            for start in starts
        ]

    def total_steps(self, examples: int, tokens_per_example: int) -> int:
        """Optimizer steps of the run, for `examples` per epoch."""
        if self.steps:
            return self.steps
        if self.tokens:
            return max(1, round(self.tokens / (self.step_size * tokens_per_example)))
        return max(1, round(self.epochs * examples / self.step_size))


def _gpu_has_bf16() -> bool:
    """Whether the GPU multiplies bf16 itself; emulated it is slower than fp32."""
    try:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    except TypeError:  # a PyTorch without the choice
        return bool(torch.cuda.is_bf16_supported())


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 itself; elsewhere autocast only costs."""
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check is not None and check())
