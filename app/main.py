"""The app: `create_app()` puts the pieces together.

`penwright-serve` (`app.cli`) runs it; so does any ASGI server:

    uvicorn --factory app.main:create_app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import errors
from app.middleware import CancelWhenGone, LimitBody, Observe
from app.routes import classify, docs, generate, health, instruct, models, tokenize
from app.service import Service
from app.settings import Settings, load_settings

DESCRIPTION = """\
Text generation, classification and instructions from models of one's own.

Errors are `application/problem+json` (RFC 9457). Every answer has the header `X-Request-ID`."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.start()
    yield
    await service.stop()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service as an ASGI app. Models load once it is started.

    Args:
        settings: by default those of the environment.

    Raises:
        UsageError: a setting of the environment is wrong.
    """
    settings = settings or load_settings()
    app = FastAPI(
        title="Penwright",
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
    )
    service = app.state.service = Service(settings)
    errors.install(app)
    for module in (generate, instruct, classify, tokenize, models, health, docs):
        app.include_router(module.router)
    docs.mount_assets(app)
    # The last one added is the outermost.
    app.add_middleware(CancelWhenGone)
    app.add_middleware(LimitBody, limit=settings.max_body_bytes)
    app.add_middleware(Observe, service=service)
    return app
