"""The learning rate over the steps of a run, as a share of its peak.

Both schedules warm up linearly. `cosine` then falls to `final` along half a cosine (Loshchilov and
Hutter, SGDR, 2017). `wsd` (warm-up, stable, decay; Hu et al., MiniCPM, 2024) stays at the peak and
falls linearly over the last part: a run that is stopped in its stable part can be continued for as
long as one likes.
"""

import math
from dataclasses import dataclass

from model.errors import UsageError

SCHEDULES = ("cosine", "wsd", "constant")


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor of each step, in (0, 1]."""

    steps: int
    """Steps of the whole run."""
    warmup: int = 0
    """Steps until the peak is reached; less than `steps`."""
    kind: str = "cosine"
    """One of `SCHEDULES`."""
    final: float = 0.1
    """Factor at the last step."""
    decay: float = 0.2
    """Share of the steps over which `wsd` falls."""

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise UsageError(
                f"--schedule is {self.kind!r}; it must be one of {', '.join(SCHEDULES)}"
            )
        if self.steps < 1:
            raise UsageError(f"the run has {self.steps} steps; it must have at least 1")
        if not 0 <= self.warmup < self.steps:
            raise UsageError(
                f"--warmup is {self.warmup} steps; it must be at least 0 and less than "
                f"the {self.steps} steps of the run"
            )
        if not 0 <= self.final <= 1:
            raise UsageError(f"--final-lr is {self.final}; it must be in [0, 1]")
        if not 0 < self.decay <= 1:
            raise UsageError(f"--decay is {self.decay}; it must be in (0, 1]")

    def factor(self, step: int) -> float:
        """Factor at `step`, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.kind == "constant":
            return 1.0
        start = self.warmup if self.kind == "cosine" else self._decay_start()
        progress = min(1.0, max(0.0, (step - start) / max(1.0, self.steps - 1 - start)))
        share = 0.5 * (1 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1 - progress
        return self.final + (1 - self.final) * share

    def steady_until(self) -> int:
        """The first step whose factor depends on how long the run is; 0 for `cosine`."""
        if self.kind == "cosine":
            return 0
        return self.steps if self.kind == "constant" else int(self._decay_start())

    def _decay_start(self) -> float:
        """Where `wsd` begins to fall: not before the peak is reached."""
        return max(self.warmup, self.steps * (1 - self.decay))
