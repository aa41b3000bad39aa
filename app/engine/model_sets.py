"""Model sets that come and go while requests run.

A new set is loaded and verified beside the old one, and its engines have shown that they turn,
before the first request sees it. The old one then gets no new requests; when those that it has are
answered, its engines stop and its memory is free. For that while, both are in memory.
"""

import asyncio
import gc
import logging
from dataclasses import dataclass

from app.engine.client import EngineClient
from app.engine.loading import LoadedModels, load
from app.ops.metrics import Metrics
from app.settings import Settings
from model.engine.request import Failed
from model.errors import PenwrightError

logger = logging.getLogger(__name__)

PROBE_SECONDS = 60.0
"""Within which a new engine must make its first step, while others may be busy."""
POLL_SECONDS = 0.02
STOP_SECONDS = 5.0
"""How long requests that were failed have to notice."""


@dataclass(frozen=True)
class Reloaded:
    """A set that was put in place of another."""

    loaded: LoadedModels
    seconds: float


class ModelSets:
    """The set that new requests get, and those before it that still have requests.

    All methods are called on the event loop.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self.current: LoadedModels | None = None
        self._retiring: dict[asyncio.Task[None], LoadedModels] = {}

    async def prepare(self) -> LoadedModels:
        """A set that is loaded, verified and turning; nobody uses it yet.

        Raises:
            PenwrightError: it cannot be used; nothing is left of it.
        """
        loop = asyncio.get_running_loop()
        loaded = await asyncio.to_thread(
            load,
            self._settings,
            lambda base, adapters: EngineClient(
                base, adapters, self._settings.engine, self._metrics, loop
            ),
        )
        try:
            for client in loaded.clients:
                client.start()
                if not await client.turns(PROBE_SECONDS):
                    raise PenwrightError("the engine does not turn")
        except BaseException:
            await self.discard(loaded)
            raise
        return loaded

    def replace(self, loaded: LoadedModels) -> None:
        """Give new requests `loaded`; retire what was there, in the background."""
        old, self.current = self.current, loaded
        if old is not None:
            task = asyncio.create_task(self._retire(old))
            self._retiring[task] = old
            task.add_done_callback(self._forget)

    async def discard(self, loaded: LoadedModels) -> None:
        """End the engines of a set."""
        for client in loaded.clients:
            await asyncio.to_thread(client.stop, 0.0)

    def clients(self) -> tuple[EngineClient, ...]:
        """Of all sets that may have requests."""
        sets = [*self._retiring.values(), *([] if self.current is None else [self.current])]
        return tuple(client for loaded in sets for client in loaded.clients)

    def fail_all(self, failed: Failed) -> None:
        """End all requests now."""
        for client in self.clients():
            client.fail_all(failed)

    async def stop(self) -> None:
        """End all engines. Requests that still run fail."""
        if self._retiring:
            await asyncio.wait(list(self._retiring), timeout=STOP_SECONDS)
        for client in self.clients():
            await asyncio.to_thread(client.stop, 0.0)

    async def _retire(self, old: LoadedModels) -> None:
        while not all(client.idle for client in old.clients):
            await asyncio.sleep(POLL_SECONDS)
        self._retiring.pop(_this_task(), None)  # from here on, nobody watches its engines
        await self.discard(old)
        names = sorted(old.models)
        del old
        # Its parts refer to each other; what they hold is to be free now, not some time.
        await asyncio.to_thread(gc.collect)
        logger.info("the models before are gone", extra={"models": names})

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._retiring.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("models could not be taken out", exc_info=task.exception())


def _this_task() -> "asyncio.Task[None]":
    task = asyncio.current_task()
    assert task is not None
    return task
