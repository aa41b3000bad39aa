"""The body of a request comes as it is, bounded in size and in the time in which it must arrive.

The rest of what a slow client can do is bounded where its connection is: `app.http.connections`.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem


class LimitBody:
    """Refuses a body that is larger than allowed, whether it says so in advance or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limit:
            await self._problem(declared).response(scope)(scope, receive, send)
            return
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self.limit:
                    raise self._problem("more")
            return message

        await self.app(scope, receive_limited, send)

    def _problem(self, size: str) -> Problem:
        return Problem(
            413, "body-too-large", f"the body has {size} bytes; at most {self.limit} are allowed"
        )


class RefuseEncodedBody:
    """Refuses a body that is compressed, with a 415: nothing here unpacks one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = ", ".join(Headers(scope=scope).getlist("content-encoding"))
            codings = {coding.strip().lower() for coding in given.split(",")}
            if codings - {"", "identity"}:
                problem = Problem(
                    415,
                    "content-encoding",
                    f"the header Content-Encoding is {given[:100]!r}; send the body as it is, "
                    "without that header or with identity",
                    headers={"Accept-Encoding": "identity"},
                )
                await problem.response(scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class LimitBodyTime:
    """Refuses a body that does not arrive to its end in time, with a 408.

    Args:
        seconds: from the end of the headers to the end of the body.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.seconds
        arrived = False

        async def receive_in_time() -> Message:
            nonlocal arrived
            if arrived:  # what is waited for now is the news that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise self._problem() from None
            arrived = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self.app(scope, receive_in_time, send)

    def _problem(self) -> Problem:
        return Problem(
            408,
            "request-timeout",
            f"the body did not arrive within {self.seconds:g} seconds",
            # What still comes of it is not to be taken for the next request.
            headers={"Connection": "close"},
        )
