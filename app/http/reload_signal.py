"""SIGHUP: load the models and the API keys again.

It has two meanings: a supervisor's wish, and the news that the terminal was closed which a program
was started in. The latter still ends the program, as it does with others.
"""

import asyncio
import logging
import os
import signal
from types import FrameType

from app.engine.service import Service
from app.errors import Problem

logger = logging.getLogger(__name__)


class Hangup:
    """Takes the signal at any time, and reloads when that is possible.

    A signal that comes during a reload counts: what it is about may have changed after that began.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._wanted = False
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
            self._wanted = True

    def tick(self) -> None:
        """Begin a reload if one is wanted and possible. Called on the event loop, now and then."""
        if self._wanted and self._service.state == "ready" and not self._service.loading:
            self._wanted = False
            logger.info("reloading, for SIGHUP")
            self._reloading = asyncio.create_task(self._reload())

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
