"""A request to stop a run, by signal."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.loop.distributed import AllStop

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
