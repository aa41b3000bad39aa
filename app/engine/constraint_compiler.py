"""`response_format` becomes a constraint: checked and compiled before the request is admitted.

That can take a second each, so it happens in threads, few at a time; more than a few that wait are
turned away, as from the engine's queue. Requests without a `response_format` pass by.
"""

import asyncio
import time
from dataclasses import replace

from app.api.fields import ResponseFormat
from app.api.options import Options
from app.errors import invalid, late, queue_full
from model.engine.constraints import ConstraintError
from model.engine.engine import Engine
from model.engine.request import Constraint

_AT_ONCE = 2
_MOST_WAITING = 32


class Compiler:
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
            raise queue_full(f"{self._taken} response formats are being compiled; try again later")
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


async def constrained(
    compiler: Compiler,
    options: Options,
    wanted: ResponseFormat | None,
    *,
    prompts: int,
    deadline: float,
) -> Options:
    """`options` with the constraint that a request's `response_format` stands for.

    Args:
        prompts: how many the request has, each with `options.choices` sequences.
        deadline: when to give up, on the clock of `time.monotonic`.

    Raises:
        Problem: 422 with the reason, 429 or 504.
    """
    if wanted is None or wanted.type == "text":
        return options
    if options.ignore_eos:
        raise invalid("ignore_eos", "cannot be true with a response_format: that says where to end")
    try:
        constraint = wanted.constraint()
        assert constraint is not None, "only a plain text has none"
        async with asyncio.timeout(deadline - time.monotonic()):
            await compiler.prepare(constraint, prompts * options.choices)
    except ConstraintError as error:
        raise invalid("response_format", str(error)) from error
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid("response_format", reason) from error
    except TimeoutError as error:
        raise late("compiling the response_format took the request's whole time") from error
    return replace(options, constraint=constraint)
