"""What a web page may not do to a service that asks nobody for a key.

Such a service trusts whoever reaches it. A web page in a browser on the same machine reaches it too
and is not meant; three checks keep it out, and the reach of a mistake small:

- The address that was connected to is a loopback one. `penwright-serve` refuses to listen on
  others without keys; another ASGI server does not know of that.
- The host that the request names is an address, or has a name that no stranger can own. A page
  under `evil.example` can have this name point to 127.0.0.1 (DNS rebinding), and is then of one
  origin with the service; its requests still carry that name.
- A request that changes or computes something does not come from a page of another origin, by what
  the browser says of it. (It could send no JSON unasked anyway, and other bodies are refused.)
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from app.errors import Problem

LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
"""Of names that the public name system never has (RFC 6761, RFC 6762, ICANN's of 2024)."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on `host`."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def check_reached_locally(scope: Scope) -> None:
    """
    Raises:
        Problem: 403, through an address that is not loopback.
    """
    host = (scope.get("server") or ("", None))[0]
    address = _address(host)
    if address is not None and not address.is_loopback:
        raise Problem(
            403,
            "no-keys",
            f"this service has no API keys and was reached at {host}: without any, it answers "
            "only at loopback addresses. Set PENWRIGHT_API_KEY or PENWRIGHT_API_KEYS, or "
            "PENWRIGHT_ALLOW_ANONYMOUS=1",
        )


def check_host(headers: Headers, allowed: Collection[str]) -> None:
    """
    Args:
        allowed: names beside those that are harmless by themselves.

    Raises:
        Problem: 403, the request is for a name that might be anybody's.
    """
    given = headers.get("host", "")
    try:
        host = (urlsplit(f"//{given}").hostname or "").rstrip(".")
    except ValueError:  # half an IPv6 address
        host = "?"
    # No browser leaves the header out. A name without a dot is in no public zone.
    if not given or _address(host) is not None or host in allowed:
        return
    if host.endswith(LOCAL_SUFFIXES) or (host and host != "?" and "." not in host):
        return
    raise Problem(
        403,
        "host-not-allowed",
        f"the request is for the host {host[:100]!r}, which this service does not know as its own; "
        "if it is, name it with --allowed-hosts (PENWRIGHT_ALLOWED_HOSTS)",
    )


def check_origin(method: str, headers: Headers, allowed: Collection[str]) -> None:
    """Like Go's `http.CrossOriginProtection`.

    Args:
        allowed: origins that may; `*` is all.

    Raises:
        Problem: 403, a browser says that a page of another origin sent the request.
    """
    origin = headers.get("origin", "")
    if method in SAFE_METHODS or "*" in allowed or origin.lower() in allowed:
        return
    site = headers.get("sec-fetch-site")
    if site is None and origin:
        try:
            same = urlsplit(origin).netloc == headers.get("host")
        except ValueError:
            same = False
    else:  # only browsers send one of the two
        same = site in (None, "same-origin", "none")
    if not same:
        raise Problem(
            403,
            "cross-origin",
            f"a page of {origin[:100] or 'another origin'} sent this; such pages may not, unless "
            "--cors-origins (PENWRIGHT_CORS_ORIGINS) names them",
        )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
