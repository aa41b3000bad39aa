"""Notices an engine that has died or hangs, after it was ready.

Nothing in the process can mend that: what an engine leaves in its thread cannot be taken back. So
its requests fail at once, /readyz answers 503, and the process ends for its supervisor to start it
anew. `Server` looks several times a second.
"""

import logging
import time
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from app.engine.client import EngineClient
from model.engine.request import Failed
from model.errors import PenwrightError

logger = logging.getLogger(__name__)


class EngineDead(PenwrightError):
    """An engine's thread has ended, or makes no more steps."""


class Watchdog:
    """Watches the engines that are in use; they may be others each time.

    Args:
        stuck_after: seconds without a step, while there is something to compute, after which an
            engine is given up.
    """

    def __init__(self, stuck_after: float) -> None:
        self.stuck_after = stuck_after
        self._last: WeakKeyDictionary[EngineClient, tuple[int, float]] = WeakKeyDictionary()

    def check(self, clients: Iterable[EngineClient]) -> EngineDead | None:
        """Look at each engine; requests of a dead one fail.

        Returns:
            what is wrong with one of them
        """
        found: EngineDead | None = None
        for client in clients:
            error = self._check(client)
            if error is not None:
                client.fail_all(Failed("internal", str(error)))
                found = error
        return found

    def _check(self, client: EngineClient) -> EngineDead | None:
        if not client.engine.alive:
            return EngineDead("the engine's thread has ended")
        now, stats = time.monotonic(), client.stats()
        steps, since = self._last.get(client, (-1, now))
        if steps != stats.steps or not (stats.running or stats.waiting):
            since = now
        self._last[client] = stats.steps, since
        if now - since >= self.stuck_after:
            return EngineDead(f"the engine made no step within {self.stuck_after:g} seconds")
        return None
