"""The app: `create_app()` puts the pieces together.

`penwright-serve` (`app.cli`) runs it; so does any ASGI server:

    uvicorn --factory app.main:create_app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app import errors
from app.api import admin, health, pages
from app.api.anthropic import count_tokens, messages
from app.api.documentation import describe_keys, problems
from app.api.native import classify, generate, instruct, models, tokenize
from app.api.ollama import chat as ollama_chat
from app.api.ollama import embed as ollama_embed
from app.api.ollama import generate as ollama_generate
from app.api.ollama import models as ollama_models
from app.api.openai import chat, completions, embeddings
from app.api.openai import models as openai_models
from app.engine.service import Service
from app.http.bodies import LimitBody, LimitBodyTime, RefuseEncodedBody
from app.http.guard import Guard, require_safe
from app.http.headers import EXPOSED, SecurityHeaders
from app.http.prefixes import PathPrefix
from app.http.requests import CancelWhenGone, RecordRequests
from app.http.unread import LimitUnread
from app.settings import Settings, load_settings

DESCRIPTION = """\
Text generation, classification and instructions from models of one's own.

Errors are `application/problem+json` (RFC 9457); where the clients of OpenAI (`/v1`), Anthropic
(`/v1/messages`) and Ollama (`/api`) call, they are as these expect. Every answer has the header
`X-Request-ID`; `X-Ignored-Fields` names the fields of a request that were taken and ask for nothing
here."""


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
        UsageError: a setting of the environment, or the file of API keys, is wrong; others could
            call without a key.
    """
    settings = settings or load_settings()
    app = FastAPI(
        title="Penwright",
        description=DESCRIPTION,
        lifespan=_lifespan,
        responses=problems(400),  # of every route: what was sent may be no HTTP
        # Where /openapi.json is, whatever prefix a proxy gives both.
        servers=[{"url": "."}],
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # FastAPI's own would log what a request had in a wrong field; the spans are those of
        # app.ops.tracing.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    service = app.state.service = Service(settings)
    require_safe(settings, service.keys)
    errors.install(app)
    endpoints = (
        *(generate, instruct, classify, tokenize, models),
        *(completions, chat, embeddings, openai_models),
        *(messages, count_tokens),
        *(ollama_chat, ollama_generate, ollama_embed, ollama_models),
        *(health, admin, pages),
    )
    for module in endpoints:
        app.include_router(module.router)
    pages.add_description(app)
    pages.mount_assets(app)
    if service.keys.required:
        describe_keys(app, settings)
    # The last one added is the outermost.
    app.add_middleware(CancelWhenGone)
    app.add_middleware(LimitUnread)
    app.add_middleware(RefuseEncodedBody)
    app.add_middleware(LimitBody, limit=settings.max_body_bytes)
    app.add_middleware(LimitBodyTime, seconds=settings.body_timeout)
    app.add_middleware(Guard, service=service)
    app.add_middleware(RecordRequests, service=service)
    # Outside of all that may refuse a request: a page must be able to read why.
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # of these origins; the official client sends a dozen of its own
            expose_headers=EXPOSED,
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(PathPrefix, prefix=settings.root_path)
    return app
