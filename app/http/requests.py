"""What surrounds every request, as plain ASGI: no route has to think of it, also none added later.

From the outside in: `RecordRequests` gives the request its id, its log line and its place in the
metrics; `app.http.guard.Guard` asks for an API key; `app.http.bodies` refuses bodies that are too
large or too slow; `CancelWhenGone` stops the work for a client that has left, be the answer a
stream or not.
"""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine.service import Service
from app.envelopes import dialect_of
from app.errors import internal
from app.ops.context import POLLED, REQUEST_CONTEXT, RequestContext

logger = logging.getLogger("app.access")

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
MOST_PATH = 500
"""Characters of a path in a log line: it can be as long as a request's headers may be."""
CLIENT_CLOSED_REQUEST = 499
"""In logs and metrics: nobody was there to be answered. The number is nginx's."""


class ClientGoneError(Exception):
    """The client left before its answer was complete."""


class RecordRequests:
    """Request id, log line, metrics; and a problem for what nobody else caught."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        context = RequestContext(request_id, log_prompts=self.service.settings.log_prompts)
        REQUEST_CONTEXT.set(context)  # each request is a task of its own, and so a context
        dialect = dialect_of(scope)
        if dialect is not None and dialect.request_id is not None:
            context.headers[dialect.request_id] = request_id
        tracing = self.service.tracing
        span = tracing.start(scope, context) if tracing is not None else None
        # A copy: the server gives all requests one object.
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.update(context.headers)
                if context.allowance is not None:
                    headers.update(context.allowance.headers())
            await send(message)

        self.service.in_flight += 1
        try:
            await self.app(scope, receive, send_with_id)
        except ClientGoneError:
            status = CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("unhandled", extra={"request_id": request_id})
            if status == 0:
                await internal().response(scope)(scope, receive, send_with_id)
            # Else the answer has begun: the server sees that it is not complete, and cuts it.
        finally:
            context.leases.close()
            self.service.in_flight -= 1
            status = status or CLIENT_CLOSED_REQUEST
            context.problem = scope["state"].get("problem")
            context.stream_error = scope["state"].get("stream_error")
            self._record(scope, context, status, time.perf_counter() - started)
            if span is not None:
                span.end(scope, context, status)

    def _record(self, scope: Scope, context: RequestContext, status: int, seconds: float) -> None:
        metrics = self.service.metrics
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        metrics.request(route, status, seconds, context.key)
        if status == CLIENT_CLOSED_REQUEST:
            metrics.disconnect()
        elif context.problem is not None:
            metrics.rejection(context.problem)
        extra = {
            "request_id": context.request_id,
            "method": scope["method"],
            "path": scope["path"][:MOST_PATH],
            "status": status,
            "seconds": round(seconds, 6),
            **context.fields(),
        }
        quiet = route in POLLED and status < 400
        logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra=extra)


class CancelWhenGone:
    """Cancels the handler of a request when the client leaves before the answer is complete.

    Starlette does so for streams only. Once the body is read, what can still be received is the
    news that the client has gone: this waits for it beside the handler.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        handler = asyncio.current_task()
        assert handler is not None
        watcher: asyncio.Task[None] | None = None
        complete = gone = False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            if not complete:
                gone = True
                handler.cancel()

        async def receive_watched() -> Message:
            nonlocal gone, watcher
            if watcher is not None:
                await asyncio.shield(watcher)
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect" and not complete:
                gone = True  # before the body was whole: it is not to be read as a wrong one
                handler.cancel()
                await asyncio.sleep(0)
            elif message["type"] == "http.request" and not message.get("more_body", False):
                watcher = asyncio.create_task(watch())
            return message

        async def send_watched(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                complete = True
            await send(message)

        try:
            await self.app(scope, receive_watched, send_watched)
        except asyncio.CancelledError:
            if not gone:
                raise
            handler.uncancel()
            raise ClientGoneError from None
        finally:
            if watcher is not None:
                watcher.cancel()
