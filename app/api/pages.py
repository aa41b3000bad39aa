"""GET /: the page to try the service, and its files; GET /docs and /openapi.json: the API's pages.

The page is plain HTML, CSS and ES modules in `app/web`; all addresses in them are relative, so that
it works under any prefix. It loads nothing from elsewhere and has no inline script or style, so
that it works under `Content-Security-Policy: default-src 'self'`. The API's pages have every asset
from here, too: they work without internet.
"""

import asyncio
import hashlib
import html
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse, JSONResponse, Response

from app.engine.service import ServiceDependency
from app.errors import Problem
from app.http.headers import docs_policy
from app.paths import outer_prefix

INDEX = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
ASSETS = "/docs/assets"
DESCRIPTION = "/openapi.json"
_RELATIVE = re.compile(rb'(?:href|src)="(?=[a-z])')
"""The beginning of what names an address in the page."""
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str
    """Of the content, not of the file's time: that is the same in all reproducible builds."""

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "Asset":
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(content, media_type, etag)


@cache
def assets() -> dict[str, Asset]:
    """The files of the page by name; they are read once."""
    found = {}
    for file in (files("app") / "web").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in MEDIA_TYPES:
            found[file.name] = Asset.of(file.read_bytes(), MEDIA_TYPES[suffix])
    return found


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    index, prefix = assets()[INDEX], outer_prefix(request.scope)
    if prefix:
        # To the prefix without a slash, too, the page is the answer: a proxy that takes it off
        # leaves nothing to tell them apart. Seen from there, relative addresses are others.
        root = html.escape(f"{prefix}/").encode()
        content = _RELATIVE.sub(lambda match: match[0] + root, index.content)
        index = Asset.of(content, index.media_type)
    return _answer(request, index)


@router.api_route("/web/settings.json", methods=["GET", "HEAD"])
async def settings(service: ServiceDependency) -> JSONResponse:
    """The limits that the page keeps to when it labels a file."""
    limits = {
        "max_batch": service.settings.max_batch,
        "max_body_bytes": service.settings.max_body_bytes,
    }
    return JSONResponse(limits, headers={"Cache-Control": "no-cache"})


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def asset(request: Request, name: str) -> Response:
    if name == INDEX or name not in assets():
        raise Problem(404, "", f"the page has no file {name[:100]!r}")
    return _answer(request, assets()[name])


def _answer(request: Request, asset: Asset) -> Response:
    # To be asked for again each time, which costs a 304: the modules then always fit together.
    headers = {"Cache-Control": "no-cache", "ETag": asset.etag}
    known = request.headers.get("if-none-match", "")
    if asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url=f".{DESCRIPTION}",
        title=request.app.title,
        swagger_js_url=f".{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f".{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f".{ASSETS}/favicon.png",
        # Swagger UI would otherwise ask a server of its makers' to check the description.
        swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True},
    )
    page.headers["Content-Security-Policy"] = docs_policy(bytes(page.body))
    return page


class Description:
    """/openapi.json, made when somebody asks for it first.

    That takes some tenths of a second of Python. It is done in a thread, once for all who wait for
    it, and goes on to its end when one of them leaves.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._made: Asset | None = None
        self._making: asyncio.Task[Asset] | None = None

    async def asset(self) -> Asset:
        if self._made is None:
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(asyncio.to_thread(self._make))
            self._made = await asyncio.shield(self._making)
        return self._made

    def _make(self) -> Asset:
        response = JSONResponse(self._app.openapi())
        return Asset.of(bytes(response.body), response.media_type)


def add_description(app: FastAPI) -> None:
    """Serve the description of all routes, those that are added before it is first asked for."""
    description = Description(app)

    @app.api_route(DESCRIPTION, methods=["GET", "HEAD"], include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return _answer(request, await description.asset())


def mount_assets(app: FastAPI) -> None:
    """Serve Swagger UI's files, which the package fastapi-offline carries (Apache-2.0)."""
    directory = Path(str(files(fastapi_offline) / "static"))
    app.mount(ASSETS, StaticFiles(directory=directory), name="docs-assets")
