"""uvicorn, so that nothing is cut off without need when it ends, and that it does end.

SIGHUP loads the models and the API keys again.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.engine.service import Service
from app.engine.watchdog import EngineDead, Watchdog
from app.errors import Problem
from app.http.connections import Connection
from app.http.prefixes import ForwardedPrefix
from app.settings import Settings
from model.errors import UsageError

logger = logging.getLogger(__name__)

FAILURE_SECONDS = 2.0
"""How long a failure to load can be read from /readyz before the process ends."""
CLOSE_SECONDS = 5
"""After the time to drain: for the last bytes to go out."""
END_SECONDS = CLOSE_SECONDS + 3.0
"""From the end of the time to drain to that of the process, whatever hangs."""
LOST_SECONDS = 1.0
"""The same where a thread is known not to end soon."""
LAST_SECONDS = 0.3
"""In which who connected before the socket was closed can still send a request, and get a 503."""


class Server(uvicorn.Server):
    """uvicorn, which on a signal first lets the service drain while it still answers.

    uvicorn by itself would close its socket at once: a load balancer that has not noticed yet
    would see refused connections in place of 503.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, *, owns_process: bool = False
    ) -> None:
        super().__init__(config)
        self.service = service
        self.reload_signal = ReloadSignal(service)
        self._owns_process = owns_process
        self._watchdog = Watchdog(service.settings.stuck_timeout)
        self._drain_until: float | None = None
        self._drain_from = 0.0
        self._failed_at: float | None = None
        self._closing = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not handed to uvicorn: it would raise the signal again in the end, and the process would
        # seem to have been killed by it.
        if self._drain_until is None:
            self.service.drain()
            self._drain_from = time.monotonic()
            self._drain_until = self._drain_from + self.service.settings.drain_timeout
        else:
            self.should_exit = self.force_exit = True
            if self._closing:
                self._abandon()

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        self.service.watch(self._watchdog)
        self._expire_connections()
        self.reload_signal.tick()
        if self._drain_until is not None:
            if now >= self._drain_until:
                self.service.give_up()
            known = now >= self._drain_from + self.service.settings.drain_delay
            if (self.service.in_flight == 0 and known) or now >= self._drain_until:
                self.should_exit = True
        if self.service.failure is not None:
            self._failed_at = self._failed_at or now
            if now >= self._failed_at + FAILURE_SECONDS:
                self.should_exit = True
        return await super().on_tick(counter)

    def _expire_connections(self) -> None:
        settings, now = self.service.settings, asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.last_answer = self._drain_until is not None
                connection.expire(
                    now,
                    arrive_within=settings.body_timeout,
                    send_within=settings.send_timeout,
                )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing = True
        lost = self.service.loading or isinstance(self.service.failure, EngineDead)
        if self._owns_process:
            limit = threading.Timer(LOST_SECONDS if lost else END_SECONDS, self._abandon)
            limit.daemon = True
            with contextlib.suppress(RuntimeError):  # no memory for a thread
                limit.start()
        # uvicorn closes the connections at once: who connected just now would see a reset.
        for listening in self.servers:
            listening.close()
        if self._drain_until is not None and not self.force_exit:
            await asyncio.sleep(LAST_SECONDS)
        await super().shutdown(sockets)

    def _abandon(self) -> None:
        """End the process: a thread of it hangs, in an engine or in loading, and would keep it."""
        if self._owns_process:
            with contextlib.suppress(OSError):
                complain(str(self.service.failure or "stopped before everything had ended"))
            os._exit(exit_code(self))


class ReloadSignal:
    """SIGHUP: taken at any time, and models and keys are loaded again when that is possible.

    It has two meanings: a supervisor's wish, and the news that the terminal was closed which a
    program was started in. The latter still ends the program, as it does with others.

    A signal that comes during a reload counts: what it is about may have changed after that began.
    The keys do not wait for models that are being loaded: one that is to be revoked may be lost.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._wanted = self._keys_wanted = False
        self._reloading: asyncio.Task[None] | None = None
        self._terminal = False

    def install(self) -> None:
        """Take the signal from now on. Only in the main thread, and not on Windows."""
        if hasattr(signal, "SIGHUP"):
            ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as nohup has it
            self._terminal = _has_terminal() and not ignored
            signal.signal(signal.SIGHUP, self._take)

    def _take(self, sig: int, frame: FrameType | None) -> None:
        if self._terminal and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
        else:
            self._wanted = self._keys_wanted = True

    def tick(self) -> None:
        """Begin a reload if one is wanted and possible. Called on the event loop, now and then."""
        if self._wanted and self._service.state == "ready" and not self._service.loading:
            self._wanted = self._keys_wanted = False
            logger.info("reloading, for SIGHUP")
            self._reloading = asyncio.create_task(self._reload())
        elif self._keys_wanted:
            self._keys_wanted = False
            with contextlib.suppress(Problem):  # the log has it
                self._service.reload_keys()

    async def _reload(self) -> None:
        try:
            await self._service.reload()
        except Problem as problem:
            logger.warning("not reloaded: %s", problem.detail)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def exit_code(server: Server) -> int:
    """Of the process that `server` ran in."""
    failure = server.service.failure
    if failure is not None:
        return 2 if isinstance(failure, UsageError) else 1
    return 0 if server.started else 1


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is run here."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    if not settings.root_path:
        config.load()
        # Those from which uvicorn takes X-Forwarded-For: FORWARDED_ALLOW_IPS.
        proxies = ProxyHeadersMiddleware(config.loaded_app, config.forwarded_allow_ips)
        is_trusted = proxies.trusted_hosts.__contains__
        config.loaded_app = ForwardedPrefix(config.loaded_app, is_trusted)
    return config


def complain(message: str) -> None:
    sys.stderr.write(f"penwright-serve: {message}\n")
