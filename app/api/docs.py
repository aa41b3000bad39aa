"""GET /docs: the API's pages, with every asset from here: they work without internet."""

from importlib.resources import files
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

from app.http.headers import docs_policy

ASSETS = "/docs/assets"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=request.app.title,
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
        # Swagger UI would otherwise ask a server of its makers' to check the description.
        swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True},
    )
    page.headers["Content-Security-Policy"] = docs_policy(bytes(page.body))
    return page


def mount_assets(app: FastAPI) -> None:
    """Serve Swagger UI's files, which the package fastapi-offline carries (Apache-2.0)."""
    directory = Path(str(files(fastapi_offline) / "static"))
    app.mount(ASSETS, StaticFiles(directory=directory), name="docs-assets")
