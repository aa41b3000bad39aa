"""Constraints are compiled before the requests that they are for are admitted.

That can take a second each, so it happens in threads, few at a time; more than a few that wait are
turned away, as from the engine's queue.
"""

import asyncio

from app.errors import queue_full
from model.engine.engine import Engine
from model.engine.request import Constraint

_AT_ONCE = 2
_MOST_WAITING = 32


class ConstraintCompiler:
    """Compiles the constraints of one engine. For the event loop alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._taken = 0

    async def prepare(self, constraint: Constraint, sequences: int) -> None:
        """Check `constraint`, and compile it for so many sequences.

        Raises:
            Problem: 429, too many are being compiled.
            ConstraintError: it cannot be used.
        """
        if self._taken >= _AT_ONCE + _MOST_WAITING:
            raise queue_full(f"{self._taken} forms of texts are being compiled; try again later")
        self._taken += 1
        try:
            await self._turns.acquire()
        except BaseException:
            self._taken -= 1
            raise
        # A thread goes on when its client leaves, and has to keep its turn so long.
        await asyncio.shield(asyncio.create_task(self._prepare(constraint, sequences)))

    async def _prepare(self, constraint: Constraint, sequences: int) -> None:
        try:
            await asyncio.to_thread(self._engine.prepare, constraint, sequences)
        finally:
            self._turns.release()
            self._taken -= 1
