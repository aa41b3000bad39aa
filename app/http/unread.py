"""Whole answers that nobody has read yet are bounded, for a key and for the process.

uvicorn takes an answer of any size at once and keeps what the client has not taken. Here it gets a
piece at a time, each when the one before is nearly gone; until then the answer counts. Streams need
no count: they are made as they are read, and what waits for that is bounded.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RETRY_SECONDS, Problem
from app.ops.context import REQUEST_CONTEXT

PIECE_BYTES = 1 << 16
"""No more than that is given to the connection at once. What is smaller does not count."""
MOST_BYTES = 256 << 20
"""Of all answers together that are not read."""
MOST_KEY_BYTES = 64 << 20
"""Of those to one key (without keys, to all)."""


class LimitUnread:
    """Refuses an answer where too many before it are not read yet: 429 for the key's, 503 for all.

    One answer is always let through, however large it is: else it could never be given.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._unread: Counter[str | None] = Counter()  # bytes, for each key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None

        async def send_counted(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message  # waits for the body: it may become another answer
                return
            first, start = start, None
            body = message.get("body", b"")
            if len(body) <= PIECE_BYTES or message.get("more_body", False):
                if first is not None:
                    await send(first)
                await send(message)
                return
            context = REQUEST_CONTEXT.get()
            key = None if context is None else context.key
            problem = self._refusal(key, len(body)) if first is not None else None
            if problem is not None:
                await problem.response(scope)(scope, receive, send)
                return
            with self._counted(key, len(body)):
                if first is not None:
                    await send(first)
                for at in range(0, len(body), PIECE_BYTES):
                    piece, more = body[at : at + PIECE_BYTES], at + PIECE_BYTES < len(body)
                    await send({"type": message["type"], "body": piece, "more_body": more})

        await self.app(scope, receive, send_counted)

    def _refusal(self, key: str | None, size: int) -> Problem | None:
        for status, unread, most, whose in (
            (429, self._unread[key], MOST_KEY_BYTES, "answers to this API key"),
            (503, self._unread.total(), MOST_BYTES, "answers of this service"),
        ):
            if unread and unread + size > most:
                return Problem(
                    status,
                    "unread-answers",
                    f"this answer has {size} bytes, and {unread} bytes of {whose} are not read "
                    f"yet; at most {most} may be: read them, and try again",
                    headers={"Retry-After": RETRY_SECONDS},
                )
        return None

    @contextlib.contextmanager
    def _counted(self, key: str | None, size: int) -> Iterator[None]:
        self._unread[key] += size
        try:
            yield
        finally:
            self._unread[key] -= size
            if not self._unread[key]:
                del self._unread[key]
