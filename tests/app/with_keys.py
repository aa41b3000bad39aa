"""API keys for tests, and the paths that they are for."""

from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from app.keys.key_file import KeyEntry, digest, dump_entries

USER, ADMIN, LIMITED, OLD, ENV = (
    f"pw-{name}-0123456789" for name in ("user", "admin", "few", "old", "env")
)
OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/docs/assets", "/web/{name}"}
OPEN |= {"/web/settings.json"}


def write_keys(path: Path) -> Path:
    file = path / "keys.json"
    entries = [
        KeyEntry(label="user", sha256=digest(USER)),
        KeyEntry(label="ops", sha256=digest(ADMIN), admin=True),
        KeyEntry(label="few", sha256=digest(LIMITED), requests_per_minute=2),
        KeyEntry(label="old", sha256=digest(OLD), expires="2001-01-01T00:00:00Z"),  # type: ignore[arg-type]
    ]
    file.write_bytes(dump_entries(entries))
    return file


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def paths(app: FastAPI) -> set[str]:
    """Paths of all routes and mounted apps."""
    found = set()
    for route in app.routes:
        contexts = getattr(route, "effective_route_contexts", None)  # of a router, in new FastAPIs
        parts = [route] if contexts is None else contexts()
        found |= {part.path for part in parts}
    return found


def asgi(app: Any, **settings: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, **settings)
    return httpx.AsyncClient(transport=transport, base_url="http://here")
