"""Who may call: each request needs an API key, unless its path is on a short list.

The check is around all routes, so that one added later, or a mounted app, is behind it without a
thought. Without any keys, `app.http.browsers` keeps web pages out.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.engine.service import Service
from app.errors import RETRY_SECONDS, Problem
from app.http.browsers import check_host, check_origin, check_reached_locally, is_loopback
from app.keys.key_file import Key, Keys
from app.keys.limits import Allowance, most_tokens
from app.ops.context import REQUEST_CONTEXT, RequestContext, Work
from app.paths import route_path
from app.settings import Settings
from model.errors import UsageError

PROBES = frozenset({"/healthz", "/readyz"})
OPEN = PROBES | {"/", "/docs", "/openapi.json"}
"""Paths that need no key: what they show is in the source for all to read, or whether it runs."""
OPEN_UNDER = ("/web/", "/docs/assets/")
METRICS = "/metrics"
OPEN_METHODS = frozenset({"GET", "HEAD"})

FORMS = "`Authorization: Bearer KEY` or `X-API-Key: KEY`"


def require_safe(settings: Settings, keys: Keys) -> None:
    """
    Raises:
        UsageError: anybody on the network could call, and nobody has said that this is meant.
    """
    if keys.required or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise UsageError(
        f"--host (PENWRIGHT_HOST) is {settings.host!r}, which others can reach, and there is no "
        "API key: set PENWRIGHT_API_KEY, or --api-keys to a file of penwright-keys; or "
        "PENWRIGHT_ALLOW_ANONYMOUS=1 if whoever reaches it may use it"
    )


def is_open(path: str, settings: Settings) -> bool:
    """Whether `path` (of a route) can be read without a key."""
    if path == METRICS:
        return settings.open_metrics
    return path in OPEN or path.startswith(OPEN_UNDER)


class Guard:
    """Lets a request through that may be here, and counts what it takes of its key's limits."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks anything else
            await send({"type": "websocket.close", "code": 1008})
            return
        context = REQUEST_CONTEXT.get()
        assert context is not None, "RecordRequests is further out"
        try:
            self._admit(scope, context)
        except Problem as problem:
            await problem.response(scope)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            if context.allowance is not None:
                context.allowance.settle(sum(map(_used, context.work)))

    def _admit(self, scope: Scope, context: RequestContext) -> None:
        """
        Raises:
            Problem: 401, 403, 429 or 503.
        """
        path, settings = route_path(scope), self.service.settings
        probes = path in PROBES and scope["method"] in OPEN_METHODS
        full = self.service.in_flight > settings.max_requests
        if full and not probes and path != "/metrics":  # which says so
            raise Problem(
                503,
                "too-many-requests",
                f"{settings.max_requests} requests are in progress; try again later",
                headers={"Retry-After": RETRY_SECONDS},
            )
        headers, keys = Headers(scope=scope), self.service.keys
        context.client = "connection {}:{}".format(*scope.get("client") or ("", 0))
        if not keys.required:
            if not probes:
                if not settings.allow_anonymous:
                    check_reached_locally(scope)
                check_host(headers, {settings.host.lower(), *settings.allowed_hosts})
                check_origin(scope["method"], headers, settings.cors_origins)
        elif not (scope["method"] in OPEN_METHODS and is_open(path, settings)):
            key = find_key(keys, headers)
            context.key = key.label
            context.client = f"key {key.label}"
            context.max_priority = key.entry.max_priority
            scope["state"]["admin"] = key.entry.admin
            self._allow(key, scope["method"], context)

    def _allow(self, key: Key, method: str, context: RequestContext) -> None:
        """Reading is free: what is limited is work."""
        if method not in OPEN_METHODS:
            allowance = Allowance(key.limits)
            allowance.begin()
            context.allowance = allowance


def find_key(keys: Keys, headers: Headers) -> Key:
    """The key that a request came with.

    Raises:
        Problem: 401; says whether it is missing, unknown or expired, and never what it was.
    """
    given = headers.get("x-api-key", "")
    if not given:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if not scheme:
            raise _unauthorized(f"an API key is missing; send it as {FORMS}")
        if scheme.lower() != "bearer":
            raise _unauthorized(f"Authorization has no bearer token; send an API key as {FORMS}")
    key = keys.find(given.strip().encode("latin-1"))
    if key is None:
        raise _unauthorized("the API key is not known here", error="invalid_token")
    if key.entry.expired():
        expired = f"the API key expired at {key.entry.expires:%Y-%m-%d %H:%M} UTC"
        raise _unauthorized(expired, error="invalid_token")
    return key


def _unauthorized(detail: str, error: str | None = None) -> Problem:
    challenge = "Bearer" if error is None else f'Bearer error="{error}"'
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _used(work: Work) -> int:
    """Tokens that count. Who breaks off is counted what was set aside: what was computed until
    then is not known here."""
    all_ended = work.prompt_tokens == sum(len(request.tokens) for request in work.requests)
    return work.prompt_tokens + work.completion_tokens if all_ended else most_tokens(work.requests)
