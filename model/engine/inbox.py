"""What other threads ask of the engine: requests, bounded in number, and whatever else.

They leave what is to be done; the engine's thread does it between two steps.
"""

import queue
import threading
from collections.abc import Callable

from model.engine.settings import EngineSettings
from model.errors import PenwrightError

Errand = Callable[[], None]


class QueueFull(PenwrightError):
    """As many requests wait as may."""


class ShuttingDown(PenwrightError):
    """The engine takes no more requests."""


class Inbox:
    """Errands of other threads, and the number of requests that the engine has."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._errands: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._accepting = True  # under the lock
        self.held = 0
        """Requests taken and not ended, running or not; written under the lock."""

    def put(self, errand: Errand) -> None:
        """Have the engine's thread do `errand` before its next step."""
        self._errands.put(errand)

    def admit(self, count: int, errand: Errand, *, bounded: bool = True) -> None:
        """Take so many requests, all of them or none; `errand` brings them in.

        Args:
            bounded: whether those that wait are limited.

        Raises:
            QueueFull: too many wait already.
            ShuttingDown: the inbox was closed.
        """
        slots, most = self._settings.slots, self._settings.max_waiting
        with self._lock:
            if not self._accepting:
                raise ShuttingDown("the engine is shutting down")
            if bounded and count > slots + most - self.held:
                raise QueueFull(
                    f"{max(0, self.held - slots)} requests are waiting already, of {most}; "
                    f"there is no room for {count} more"
                )
            self.held += count
            # Still under the lock: what was admitted is in the queue before the inbox can close.
            self._errands.put(errand)

    def ended(self) -> None:
        """One of the requests has gone."""
        with self._lock:
            self.held -= 1

    def close(self) -> None:
        """Take no more requests."""
        with self._lock:
            self._accepting = False

    def empty(self, *, wait: bool) -> None:
        """Do what was asked for; `wait` for it if there is nothing. For the engine's thread."""
        try:
            self._errands.get(block=wait)()
            while True:
                self._errands.get_nowait()()
        except queue.Empty:
            pass


def wake() -> None:
    """An errand that only ends the waiting."""
