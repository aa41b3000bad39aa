"""Headers that have browsers keep to what is meant, on every answer.

Pages may load and run what comes from here, and nothing else; answers with the texts of users are
kept by no cache. `OWASP Secure Headers` explains each of them.
"""

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.guard import OPEN, OPEN_UNDER, PROBES
from app.ops.context import IGNORED_FIELDS
from app.paths import route_path

EXPOSED = (
    *("Retry-After", "X-Model", "X-Model-SHA256", "X-Request-ID", "Request-ID", IGNORED_FIELDS),
    *(
        f"X-RateLimit-{what}-{kind}"
        for what in ("Limit", "Remaining", "Reset")
        for kind in ("Requests", "Tokens")
    ),
)
"""What a page of another origin may read of an answer, if it may call at all."""

_FRAME = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"default-src 'self'; img-src 'self' data:; object-src 'none'; {_FRAME}"
API_POLICY = f"default-src 'none'; {_FRAME}"

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def docs_policy(page: bytes) -> str:
    """The policy of Swagger UI's page: its one inline script, by its hash, and what it draws.

    It sets styles of single elements, and has pictures in its style sheet.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _INLINE_SCRIPT.findall(page)
    )
    return (
        f"default-src 'self'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; object-src 'none'; {_FRAME}"
    )


class SecurityHeaders:
    """Adds what an answer has not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        page = (path in OPEN or path.startswith(OPEN_UNDER)) and path not in PROBES

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", PAGE_POLICY if page else API_POLICY)
                if not page:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_headers)
