"""The life of the service: loading, ready, draining; or failed.

It answers from the first moment: models load in the background, and until they are verified,
requests for them get a 503. Once ready it can reload, and stays ready meanwhile.
"""

import asyncio
import logging
import time
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Depends, Request

from app.engine.client import EngineClient
from app.engine.loading import LoadedModels, ServedModel
from app.engine.model_sets import ModelSets, Reloaded
from app.engine.watchdog import EngineDead, Watchdog
from app.errors import Problem, unavailable
from app.keys.key_file import load_keys
from app.ops.context import REQUEST_CONTEXT
from app.ops.metrics import Metrics
from app.ops.tracing import make_tracing
from app.settings import Settings
from model.checkpoint import TaskName
from model.engine.request import Failed
from model.errors import PenwrightError, UsageError

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed", "draining"]
_ENDS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
"""What ends a task, and is no failure of what it does."""
PROBE_SECONDS = 5.0
"""Within which an engine must make a step."""


class Service:
    """What the routes share. All methods are called on the event loop, other than `drain`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = load_keys(settings)
        self.metrics = Metrics(lambda: self.state == "ready")
        self.tracing = make_tracing(settings.tracing_endpoint)
        self.state: State = "loading"
        self.failure: BaseException | None = None
        self.in_flight = 0
        """HTTP requests that are being answered."""
        self._sets = ModelSets(settings, self.metrics)
        self._loading: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[Reloaded | Problem] | None = None

    def start(self) -> None:
        """Begin to load the models."""
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        started = time.monotonic()
        try:
            loaded = await self._sets.prepare()
        except _ENDS:
            raise
        except BaseException as error:  # whatever it is: nobody waits for models that never come
            self.failure = error
            self.state = "failed"
            known = isinstance(error, PenwrightError)
            logger.error("models cannot be served: %s", error, exc_info=None if known else error)
            return
        self._sets.replace(loaded)
        if self.state == "loading":
            self.state = "ready"
        _log_ready("ready", loaded, round(time.monotonic() - started, 3))

    def reload_keys(self) -> None:
        """Read the API keys again; from now on, they are those. Whatever the models do.

        Raises:
            Problem: 409, their file cannot be used. Those before are still valid.
        """
        try:
            self.keys = load_keys(self.settings, self.keys)
        except UsageError as error:
            logger.error("the API keys before are still valid: %s", error)
            reason = f"{error}. The API keys before are still valid, and nothing was reloaded"
            raise Problem(409, "reload-refused", reason) from error
        if self.settings.api_keys is not None:
            logger.info("API keys were read again", extra={"keys": len(self.keys)})

    async def reload(self) -> Reloaded:
        """Load the keys again, and then the models; serve these if they are good.

        Goes on to its end when whoever waits for it is cancelled.

        Raises:
            Problem: 409 what is there cannot be used, or a reload goes on already; 503 the service
                is not ready. The models that were served before still are. The keys are the new
                ones, unless it is their file that cannot be used.
        """
        try:
            self.reload_keys()
        except Problem:
            self.metrics.reload(ok=False)
            raise
        self._require_ready()
        self.require_loaded()
        if self._reloading is not None and not self._reloading.done():
            reason = f"a reload goes on already; wait for its end. {self._new_keys()}"
            raise Problem(409, "reload-in-progress", reason)
        self._reloading = asyncio.create_task(self._reload())
        result = await asyncio.shield(self._reloading)
        if isinstance(result, Problem):
            raise result
        return result

    async def _reload(self) -> Reloaded | Problem:
        """The result; a problem is returned, as nobody may be there to take an exception."""
        started = time.monotonic()
        try:
            loaded = await self._sets.prepare()
        except _ENDS:
            raise
        except BaseException as error:
            known = isinstance(error, PenwrightError)
            reason = str(error) if known else type(error).__name__
            logger.error("reload refused: %s", reason, exc_info=None if known else error)
            self.metrics.reload(ok=False)
            reason += f". The models before are served on. {self._new_keys()}"
            return Problem(409, "reload-refused", reason, extra={"keys": len(self.keys)})
        if self.state != "ready":
            await self._sets.discard(loaded)
            return unavailable("draining", "the service shuts down; nothing was reloaded")
        self._sets.replace(loaded)
        self.metrics.reload(ok=True)
        seconds = round(time.monotonic() - started, 3)
        _log_ready("reloaded", loaded, seconds)
        return Reloaded(loaded, seconds)

    def _new_keys(self) -> str:
        return f"The API keys were read again: {len(self.keys)} are known"

    @property
    def loading(self) -> bool:
        """Whether models are being loaded now, whatever the state."""
        tasks = (self._loading, self._reloading)
        return any(task is not None and not task.done() for task in tasks)

    def drain(self) -> None:
        """Take no more work; what was taken goes on. May be called in a signal handler."""
        if self.state != "failed":
            self.state = "draining"

    def watch(self, watchdog: Watchdog) -> None:
        """Fail if an engine has died or hangs."""
        if self.failure is not None or self.state == "loading":
            return
        error = watchdog.check(self.engine_clients())
        if error is not None:
            logger.critical("the service has failed: %s", error)
            self.failure = error
            self.state = "failed"

    def give_up(self) -> None:
        """End the requests that are still running: the time to drain is over."""
        self._sets.fail_all(Failed("shutdown", "the service is shutting down"))

    async def stop(self) -> None:
        """End the engines. Requests that still run fail."""
        self.drain()
        for task in (self._loading, self._reloading):
            if task is not None:
                await asyncio.wait([task])
        self.give_up()
        await self._sets.stop()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.shutdown)

    def require_loaded(self) -> LoadedModels:
        """The models, for requests that do no work with them.

        Raises:
            Problem: 503, they are not loaded.
        """
        if self.state == "failed":
            name = "engine-dead" if isinstance(self.failure, EngineDead) else "failed"
            raise unavailable(name, f"the models cannot be served: {self._reason()}")
        if self._sets.current is None:
            raise unavailable("loading", "the models are being loaded and verified")
        return self._sets.current

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
                    f"no model here answers /{task}; served are: {', '.join(loaded.defaults)}"
                    + "".join({_why_not(model, task) for model in loaded.models.values()}),
                )
            return _take(loaded.models[loaded.defaults[task]])
        model = self._named(loaded, name)
        if task not in model.tasks:
            raise Problem(
                404,
                "task-not-served",
                f"model {name!r} does not answer /{task}; it answers: {', '.join(model.tasks)}"
                + _why_not(model, task),
            )
        return _take(model)

    def any_model(self, name: str | None) -> ServedModel:
        """The model of that name, whatever it does; by default that of the first task."""
        self._require_ready()
        loaded = self.require_loaded()
        if name is not None:
            return _take(self._named(loaded, name))
        return _take(loaded.models[next(iter(loaded.defaults.values()))])

    async def check_ready(self) -> LoadedModels:
        """Show that requests can be answered now.

        Raises:
            Problem: 503, with the reason.
        """
        self._require_ready()
        loaded = self.require_loaded()
        for client in loaded.clients:
            if not client.engine.alive:
                raise unavailable("engine-dead", "the engine's thread has ended")
            with client.in_use():  # a reload may put another in its place meanwhile
                turns = await client.turns(PROBE_SECONDS)
            if not turns:
                raise unavailable(
                    "engine-stuck", f"the engine made no step within {PROBE_SECONDS:g} seconds"
                )
        return loaded

    def engine_clients(self) -> tuple[EngineClient, ...]:
        """Of all engines that may have requests, those of sets that are on their way out too."""
        return self._sets.clients()

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

    def _reason(self) -> str:
        # Of an unexpected error only the kind: its text is for the log.
        known = isinstance(self.failure, PenwrightError)
        return str(self.failure) if known else type(self.failure).__name__


def _take(model: ServedModel) -> ServedModel:
    """Have the request that is being answered use `model` to its end, and its answer say so."""
    context = REQUEST_CONTEXT.get()
    if context is not None:
        context.leases.enter_context(model.client.in_use())
        context.headers["X-Model"] = quote(model.name)
        if model.checkpoint:
            context.headers["X-Model-SHA256"] = model.checkpoint
    return model


def _why_not(model: ServedModel, task: TaskName) -> str:
    """Why a model does not do a task that its file says it can."""
    problem = model.base.template_problem
    if task == "instruct" and model.template is None and problem is not None:
        return f"; the chat template of {model.name} cannot be used: {problem}"
    return ""


def _log_ready(message: str, loaded: LoadedModels, seconds: float) -> None:
    cache = sum(client.stats().cache_bytes for client in loaded.clients)
    extra = {"models": sorted(loaded.models), "seconds": seconds, "cache_bytes": cache}
    logger.info(message, extra=extra)


async def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(get_service)]
