"""What stops a run: a step that no training should go on from, and a signal.

A loss or a gradient that is not finite is such a step. So is a spike: a loss that lies above the
mean of the last 100 steps by more than `--spike` of their standard deviations; before 20 steps
there is none. It is found before the optimizer's step, so neither the weights nor the saved state
have anything of it.
"""

import contextlib
import json
import math
import signal
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint.atomic import write_file
from training.loop import state as saved_state
from training.loop.distributed import AllStop, first

WINDOW = 100
_LEAST = 20


class BadStep(AllStop):
    """The run stops at a step, with its state as it was before."""


def complaint(loss: float, recent: Sequence[float], deviations: float = 0.0) -> str:
    """What is wrong with a step's loss; nothing, if it is as usual.

    Args:
        recent: losses of the steps before, at most the last `WINDOW`.
        deviations: how many of their standard deviations are too much; 0 for no limit.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not deviations or len(recent) < _LEAST:
        return ""
    mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
    if loss <= mean + deviations * deviation:
        return ""
    return (
        f"the loss is {loss:.4g}, above {mean:.4g}, the mean of the last {len(recent)} steps, by "
        f"more than --spike {deviations:g} of their standard deviations of {deviation:.4g}"
    )


def stop_at(step: int, examples: Sequence[int], why: str, directory: Path) -> BadStep:
    """Write `bad-step.json` and make the error that says what to do.

    Args:
        examples: indices of all that the step saw.
    """
    report = directory / "bad-step.json"
    if first():
        content = {"step": step, "why": why, "examples": list(examples)}
        write_file(report, (json.dumps(content, indent=1) + "\n").encode())
    some = ", ".join(map(str, examples[:8])) + (", …" if len(examples) > 8 else "")
    last = saved_state.last_state(directory)
    good = f"the last good state is {last}" if last.exists() else "no state is saved yet"
    return BadStep(
        f"{why} at step {step}, examples {some} (see {report}); {good}: "
        "try a lower --lr or a longer --warmup"
    )


_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # Windows has none
    _SIGNALS.append(signal.SIGHUP)


class Stopped(AllStop):
    """The run was asked to stop; its state is saved."""


@dataclass
class StopRequest:
    requested: bool = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Take SIGINT, SIGTERM and the end of the terminal as a request to stop after the step; a
    second one kills. Under `nohup` the end of the terminal is none."""
    request = StopRequest()
    previous: dict[int, Any] = {}

    def handle(number: int, frame: object) -> None:
        request.requested = True
        signal.signal(number, previous[number] or signal.SIG_DFL)

    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: whoever owns that one stops us
        previous.clear()
    try:
        yield request
    finally:
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)
