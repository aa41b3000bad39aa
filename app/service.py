"""The life of the service: loading, ready, draining; or failed.

It answers from the first moment: models load in the background, and until they are verified,
requests for them get a 503.
"""

import asyncio
import logging
import time
from typing import Annotated, Literal

from fastapi import Depends, Request

from app.dispatch import Dispatcher
from app.errors import Problem, unavailable
from app.loading import LoadedModels, ServedModel, load
from app.metrics import Metrics
from app.settings import Settings
from model.checkpoint import TaskName
from model.engine.request import Failed
from model.errors import PenwrightError

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed", "draining"]
PROBE_SECONDS = 5.0
"""Within which an engine must make a step."""


class Service:
    """What the routes share. All methods are called on the event loop, other than `drain`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(lambda: [d.stats() for d in self._dispatchers()])
        self.state: State = "loading"
        self.failure: Exception | None = None
        self.in_flight = 0
        """HTTP requests that are being answered."""
        self._loaded: LoadedModels | None = None
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load the models."""
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        try:
            loaded = await asyncio.to_thread(
                load,
                self.settings,
                lambda base, adapters: Dispatcher(
                    base, adapters, self.settings.engine, self.metrics, loop
                ),
            )
            self._loaded = loaded
            for dispatcher in loaded.dispatchers:
                dispatcher.start()
                if not await dispatcher.turns(PROBE_SECONDS * 12):
                    raise PenwrightError("the engine does not turn")
        except Exception as error:
            self.failure = error
            self.state = "failed"
            known = isinstance(error, PenwrightError)
            logger.error("models cannot be served: %s", error, exc_info=None if known else error)
            return
        if self.state == "loading":
            self.state = "ready"
        seconds = round(time.monotonic() - started, 3)
        cache = sum(dispatcher.stats().cache_bytes for dispatcher in loaded.dispatchers)
        extra = {"models": sorted(loaded.models), "seconds": seconds, "cache_bytes": cache}
        logger.info("ready", extra=extra)

    def drain(self) -> None:
        """Take no more work; what was taken goes on. May be called in a signal handler."""
        if self.state != "failed":
            self.state = "draining"

    def give_up(self) -> None:
        """End the requests that are still running: the time to drain is over."""
        for dispatcher in self._dispatchers():
            dispatcher.fail_all(Failed("shutdown", "the service is shutting down"))

    async def stop(self) -> None:
        """End the engines. Requests that still run fail."""
        self.drain()
        if self._loading is not None:
            await asyncio.wait([self._loading])
        for dispatcher in self._dispatchers():
            await asyncio.to_thread(dispatcher.stop, 0.0)

    def require_loaded(self) -> LoadedModels:
        """The models, for requests that do no work with them.

        Raises:
            Problem: 503, they are not loaded.
        """
        if self.state == "failed":
            raise unavailable("failed", f"the models cannot be served: {self._reason()}")
        if self._loaded is None:
            raise unavailable("loading", "the models are being loaded and verified")
        return self._loaded

    def model(self, task: TaskName, name: str | None) -> ServedModel:
        """The model that is to do `task`.

        Raises:
            Problem: 503 loading, draining or failed; 404 no model of that name, or none for it.
        """
        self._require_ready()
        loaded = self.require_loaded()
        if name is None:
            if task not in loaded.defaults:
                raise Problem(
                    404,
                    "task-not-served",
                    f"no model here answers /{task}; served are: {', '.join(loaded.defaults)}",
                )
            return loaded.models[loaded.defaults[task]]
        model = self._named(loaded, name)
        if task not in model.tasks:
            raise Problem(
                404,
                "task-not-served",
                f"model {name!r} does not answer /{task}; it answers: {', '.join(model.tasks)}",
            )
        return model

    def any_model(self, name: str | None) -> ServedModel:
        """The model of that name, whatever it does; by default that of the first task."""
        self._require_ready()
        loaded = self.require_loaded()
        if name is not None:
            return self._named(loaded, name)
        return loaded.models[next(iter(loaded.defaults.values()))]

    async def check_ready(self) -> LoadedModels:
        """Show that requests can be answered now.

        Raises:
            Problem: 503, with the reason.
        """
        self._require_ready()
        loaded = self.require_loaded()
        for dispatcher in loaded.dispatchers:
            if not dispatcher.engine.alive:
                raise unavailable("engine-dead", "the engine's thread has ended")
            if not await dispatcher.turns(PROBE_SECONDS):
                raise unavailable(
                    "engine-stuck", f"the engine made no step within {PROBE_SECONDS:g} seconds"
                )
        return loaded

    def _require_ready(self) -> None:
        if self.state == "draining":
            raise unavailable("draining", "the service is shutting down and takes no more requests")
        if self.state == "loading":
            raise unavailable("loading", "the models are being loaded and verified")

    def _named(self, loaded: LoadedModels, name: str) -> ServedModel:
        if name not in loaded.models:
            names = ", ".join(sorted(loaded.models))
            raise Problem(
                404, "unknown-model", f"there is no model {name[:100]!r}; there are: {names}"
            )
        return loaded.models[name]

    def _dispatchers(self) -> tuple[Dispatcher, ...]:
        return () if self._loaded is None else self._loaded.dispatchers

    def _reason(self) -> str:
        # Of an unexpected error only the kind: its text is for the log.
        known = isinstance(self.failure, PenwrightError)
        return str(self.failure) if known else type(self.failure).__name__


async def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(get_service)]
