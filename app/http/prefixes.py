"""A prefix that a proxy puts before the paths of the service, as in https://example.com/models/.

Some proxies take it off before they pass a request on, some leave it. To all that follows here both
look the same, as ASGI has it: `root_path` is the prefix, and `path` begins with it. The prefix is
the setting `root_path`; without it, what a proxy says in X-Forwarded-Prefix that it has taken off.
That header moves links in the answer to its own request. It never makes a path another route's:
whoever had it pass could otherwise reach, as /any/metrics, what a proxy in front refuses as
/metrics.

Redirects and pages have relative addresses, so they hold where nobody has told the prefix.
"""

from collections.abc import Callable
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.paths import path_prefix, route_path

HEADER = b"x-forwarded-prefix"
_IN_QUERY = "!#$%&'()*+,/:;=?@[]~"  # and so not quoted again


class ForwardedPrefix:
    """Takes over X-Forwarded-Prefix.

    Must be around whatever replaces the address of the proxy with that of its client.

    Args:
        is_trusted: whether the proxy at an address is believed.
    """

    def __init__(self, app: ASGIApp, is_trusted: Callable[[str | None], bool]) -> None:
        self.app = app
        self.is_trusted = is_trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (prefix := _forwarded(scope)):
            address = (scope.get("client") or (None,))[0]
            if self.is_trusted(address):
                scope = _put_before(scope, prefix)
        await self.app(scope, receive, send)


class PathPrefix:
    """Makes the two ways in which a proxy passes a request on the same.

    Args:
        prefix: where the server knows of none, or an app around this one.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        prefix = scope.get("root_path") or self.prefix
        inner: Scope = {**scope, "root_path": prefix}
        if prefix and scope["path"] == prefix:
            inner.update(path=f"{prefix}/", raw_path=_raw(scope) + b"/")
        elif not scope["path"].startswith(f"{prefix}/"):
            inner = _put_before(inner, prefix)

        async def send_relative(message: Message) -> None:
            # The router's own redirect, for a slash at the end: no endpoint was found.
            if message.get("status") == 307 and "endpoint" not in inner:
                MutableHeaders(scope=message)["Location"] = _other_slash(inner)
            await send(message)

        await self.app(inner, receive, send_relative)


def _forwarded(scope: Scope) -> str:
    """The prefix that the header names; empty without one that can be used."""
    values = [value for name, value in scope["headers"] if name == HEADER]
    if len(values) != 1:  # of two, one may be the client's own
        return ""
    try:
        return path_prefix(values[0].decode("latin-1").strip())
    except ValueError:
        return ""


def _put_before(scope: Scope, prefix: str) -> Scope:
    path: str = scope["path"]
    if not path.startswith("/"):  # OPTIONS *
        return scope
    raw = prefix.encode() + _raw(scope)
    return {**scope, "root_path": prefix, "path": prefix + path, "raw_path": raw}


def _raw(scope: Scope) -> bytes:
    return scope.get("raw_path") or quote(scope["path"]).encode()


def _other_slash(scope: Scope) -> str:
    """The address of the same path with a slash at its end, or without, seen from the request.

    Names neither the prefix nor the host: neither need be known here, and the latter is the
    client's word.
    """
    path = route_path(scope)
    target = path.rstrip("/") if path.endswith("/") else f"{path}/"
    # As many steps up as the client's address has folders below the prefix.
    depth = _raw(scope).count(b"/") - scope["root_path"].count("/") - 1
    query = scope.get("query_string", b"")
    address = (depth * "../" or "./") + quote(target.lstrip("/"))
    return f"{address}?{quote(query, safe=_IN_QUERY)}" if query else address
