"""The same app as a Ray Serve deployment: replicas on many machines behind one address.

    serve run deploy/ray.yaml                           on this machine, until Ctrl-C
    ray start --head; serve deploy deploy/ray.yaml      on a cluster that Ray runs on

`deploy/ray.yaml` is what one edits. Needs the extra `cluster`. Settings are the usual PENWRIGHT_…
variables; what Ray has to know of them (how many requests a replica takes, how long it may drain)
follows from them here.

Each replica is a process with the whole app and engines of its own. Ray's proxies take HTTP and
pass each request to the replica with fewer of them; what no replica has room for waits in a proxy.
"""

import asyncio
import logging
import math
import os
from typing import Any, Self

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine.service import Service
from app.engine.watchdog import EngineDead, Watchdog
from app.errors import RETRY_SECONDS
from app.main import create_app
from app.ops import logs
from app.settings import SECRETS, Settings, load_settings

HEALTH_PERIOD = 2.0
"""Seconds between health checks. Ray replaces a replica after three that fail."""
WATCH_PERIOD = 0.1
"""Seconds between looks at the engines."""
LAST_SECONDS = 0.5
"""From an engine's death to that of the process: for the errors of its requests to go out."""
DRAIN_PERIOD = 0.5
"""Seconds between Ray's looks at whether a replica that is to go has finished."""
CLOSE_SECONDS = 5.0
"""After the longest request: for its last bytes to go out."""
STARTS = 3
"""Attempts to start a replica, before Ray says that the deployment has failed."""
POLL_SECONDS = 0.05


class Replicas(BaseModel):
    """How many replicas, and what each of them gets: `args` in deploy/ray.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(1, ge=1, description="replicas that run in any case")
    max_replicas: int = Field(4, ge=1, description="replicas under load, if the cluster has room")
    cpus: float = Field(2, gt=0, description="CPU cores of a replica, and so its threads")
    gpus: float = Field(0, ge=0, description="GPUs of a replica; may be a part of one")
    upscale_delay: float = Field(10, ge=0, description="seconds of load before there are more")
    downscale_delay: float = Field(300, ge=0, description="seconds of quiet before there are fewer")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}; "
                f"it must be at least min_replicas ({self.min_replicas})"
            )
        return self


class OneRequestId:
    """Leaves X-Request-ID to Ray's proxy, which puts the same one on every answer itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        await self.app(scope, receive, send_without_id)


class Penwright:
    """One replica. Ray calls `__serve_build_asgi_app__` and then starts the app's lifespan."""

    _service: Service
    _watching: asyncio.Task[None]

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Where the proxies listen is not known here: without keys, nothing but being told so
        # makes it safe to answer everybody.
        settings = load_settings(host="0.0.0.0")
        context: Any = ray.get_runtime_context()
        cpus = math.ceil(context.get_assigned_resources().get("CPU", 0))
        if cpus and not settings.threads:
            settings = settings.model_copy(update={"threads": cpus})
        _log(settings)
        app = create_app(settings)
        app.add_middleware(OneRequestId)
        self._service = app.state.service
        self._watching = asyncio.get_running_loop().create_task(
            self._watch(Watchdog(settings.stuck_timeout))
        )
        return app

    async def _watch(self, watchdog: Watchdog) -> None:
        """End the process when an engine has died, as `penwright-serve` does.

        Until three health checks were bad, Ray would go on sending it requests: all the more
        because their errors come quickly.
        """
        while not isinstance(self._service.failure, EngineDead):
            await asyncio.sleep(WATCH_PERIOD)
            if self._service.state == "draining":  # the engines are being stopped
                return
            self._service.watch(watchdog)
        await asyncio.sleep(LAST_SECONDS)
        os._exit(1)

    async def check_health(self) -> None:
        """Ray gives a replica requests after the first of these, and replaces it after three bad.

        Raises:
            Problem: the models cannot be loaded; an engine is dead, or makes no steps.
        """
        while self._service.state == "loading":
            await asyncio.sleep(POLL_SECONDS)
        await self._service.check_ready()


def _log(settings: Settings) -> None:
    """Log as `app.ops.logs` says, in this replica's file of Ray's logs.

    Not with its `configure`: that closes all handlers there are, and Ray's are needed.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(
        logs.JSONFormatter() if settings.log_format == "json" else logs.TextFormatter()
    )
    for name in ("app", "model"):
        logger = logging.getLogger(name)
        logger.setLevel(settings.log_level.upper())
        logger.handlers = [handler]
        logger.propagate = False


def options(settings: Settings, replicas: Replicas) -> dict[str, object]:
    """What Ray is told about the deployment."""
    longest = max(settings.drain_timeout, settings.request_timeout)
    return {
        # A full batch, and a few more: a slot that comes free is then filled in the next step, and
        # not after a way to the proxy and back. The rest waits in the proxies, which give it to
        # whichever replica has room first, and is seen there by the autoscaler.
        "max_ongoing_requests": settings.slots + max(1, settings.slots // 4),
        # For each proxy; beyond that the answer is the same as a full queue's in one process.
        "max_queued_requests": settings.max_waiting,
        "backpressure_config": BackpressureConfig(
            status_code=429, retry_after_s=float(RETRY_SECONDS)
        ),
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.max_replicas,
            # Requests in a replica and waiting for it. Below a full batch: a new replica takes
            # seconds to start, and should be there when the batches are full.
            target_ongoing_requests=max(1, settings.slots * 3 // 4),
            upscale_delay_s=replicas.upscale_delay,
            downscale_delay_s=replicas.downscale_delay,
        ),
        # A replica that is to go gets no more requests and finishes those it has. None takes
        # longer than this: the engine gives it up before, and says so to the client.
        "graceful_shutdown_timeout_s": longest + CLOSE_SECONDS,
        "graceful_shutdown_wait_loop_s": DRAIN_PERIOD,
        "health_check_period_s": HEALTH_PERIOD,
        "max_constructor_retry_count": STARTS,
        # A new version is started beside the old one, which serves until the new one does; if that
        # never happens (models that do not verify), it goes on serving.
        "max_surge_percent": 25,
        "ray_actor_options": {
            "num_cpus": replicas.cpus,
            "num_gpus": replicas.gpus,
            # The replicas are set as the one who starts them, wherever they run.
            "runtime_env": {"env_vars": _variables()},
        },
    }


def _variables() -> dict[str, str]:
    """All but secrets: Ray shows these to whoever may see its state."""
    secret = {f"PENWRIGHT_{name.upper()}" for name in SECRETS}
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PENWRIGHT_") and name not in secret
    }


def app(replicas: Replicas) -> serve.Application:
    """The application that `serve run` and `serve deploy` start.

    Raises:
        UsageError: a setting of the environment is wrong.
    """
    deployment: Any = serve.deployment(serve.ingress()(Penwright), name="Penwright")
    application: serve.Application = deployment.options(**options(load_settings(), replicas)).bind()
    return application
