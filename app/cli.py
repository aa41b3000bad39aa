"""`penwright-serve`: serve models over HTTP.

    penwright-serve                                  the bundled models
    penwright-serve --models DIR                     a model set of one's own
    penwright-serve --base DIR --classify DIR        single checkpoints

Every flag is also an environment variable: --max-waiting is PENWRIGHT_MAX_WAITING. On SIGTERM or
Ctrl-C, requests that run are finished, new ones are answered 503, and then the process ends; a
second signal ends it at once. Exit codes: 0 stopped, 1 the models or the port cannot be had, 2 a
setting is wrong.
"""

import argparse
import sys
import time
import typing
from collections.abc import Sequence
from types import FrameType
from typing import Any, Literal

import uvicorn

from app import logs
from app.main import create_app
from app.service import Service
from app.settings import Settings, load_settings
from model.errors import UsageError

FAILURE_SECONDS = 2.0
"""How long a failure to load can be read from /readyz before the process ends."""
CLOSE_SECONDS = 5
"""After the time to drain: for the last bytes to go out."""


def parser() -> argparse.ArgumentParser:
    """A flag for each field of `Settings`; their values are checked there."""
    top = argparse.ArgumentParser(
        "penwright-serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, field in Settings.model_fields.items():
        text = field.description or ""
        kind = field.annotation
        if typing.get_origin(kind) is Literal:
            metavar = "|".join(typing.get_args(kind))
        elif kind is bool:
            metavar = "true|false"
        elif kind in (int, float):
            metavar = "N"
        else:
            metavar = "HOST" if name == "host" else "DIR"
        if field.default is not None:
            text += f" (default {field.default:g})" if kind is float else f" ({field.default})"
        top.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )
    return top


class Server(uvicorn.Server):
    """uvicorn, which on a signal first lets the service drain while it still answers.

    uvicorn by itself would close its socket at once: a load balancer that has not noticed yet
    would see refused connections in place of 503.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._drain_until: float | None = None
        self._failed_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not handed to uvicorn: it would raise the signal again in the end, and the process would
        # seem to have been killed by it.
        if self._drain_until is None:
            self._service.drain()
            self._drain_until = time.monotonic() + self._service.settings.drain_timeout
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if self._drain_until is not None:
            if now >= self._drain_until:
                self._service.give_up()
            if self._service.in_flight == 0 or now >= self._drain_until:
                self.should_exit = True
        if self._service.failure is not None:
            self._failed_at = self._failed_at or now
            if now >= self._failed_at + FAILURE_SECONDS:
                self.should_exit = True
        return await super().on_tick(counter)


def serve(settings: Settings) -> int:
    """Serve until a signal, or until the models cannot be loaded.

    Returns:
        the exit code
    """
    logs.configure(settings)
    app = create_app(settings)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = Server(config, service)
    try:
        server.run()
    except SystemExit:
        complain(f"--host {settings.host} --port {settings.port}: cannot listen there; see the log")
        return 1
    if service.failure is not None:
        complain(str(service.failure))
        return 2 if isinstance(service.failure, UsageError) else 1
    return 0 if server.started else 1


def complain(message: str) -> None:
    sys.stderr.write(f"penwright-serve: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    flags: dict[str, Any] = vars(parser().parse_args(argv))
    try:
        return serve(load_settings(**flags))
    except UsageError as error:
        complain(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
