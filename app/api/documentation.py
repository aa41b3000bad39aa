"""What /openapi.json says beside what FastAPI finds: errors, streams, API keys."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from app.envelopes import ANTHROPIC, OLLAMA, OPENAI, Dialect
from app.errors import MEDIA_TYPE
from app.http.guard import is_open
from app.settings import Settings

Example = dict[str, Any]
"""Of a request, for /docs. They run as they stand: below /v1 and /api against
`checkpoints/scratch`, `/classify` where there is a classifier of spam."""


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str | None
    errors: list[dict[str, Any]] | None = Field(None, description="With 422: one for each field.")


_WHEN = {
    400: "Longer than the model's context, more than the key's limit ever has, no JSON, or no HTTP",
    401: "No API key, an unknown or an expired one",
    403: "Not allowed to whoever asks",
    404: "No such model, or none for this task",
    408: "The body did not arrive in time",
    409: "Goes on already, or cannot be done with what is there",
    413: "The body is too large",
    415: "The body is compressed",
    422: "A field is invalid",
    429: "The queue is full, or the key's limit is used up; Retry-After says when to come back",
    500: "Something went wrong inside",
    503: "Loading, draining or failed",
    504: "Past the request's deadline",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that can answer with these errors."""
    schema = ProblemBody.model_json_schema()
    return {
        status: {"description": _WHEN[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _told(
    dialect: Dialect, responses: dict[int | str, dict[str, Any]]
) -> dict[int | str, dict[str, Any]]:
    """The same errors as another API's clients know them."""
    return {
        status: {"model": dialect.model, "description": response["description"]}
        for status, response in responses.items()
    }


_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
"""A server-sent event; its data is JSON, as the description of the route says."""

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}}
}
"""Of routes that stream if they are asked to, beside their answer in JSON."""
LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "object"}}}}
}
"""Of routes that stream a JSON object a line."""

WORK = problems(400, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
"""Of routes that run a model."""

_KEYS = problems(401, 403)
_READ = problems(404, 422, 500, 503)
OPENAI_WORK = _told(OPENAI, _KEYS | WORK)
OPENAI_READ = _told(OPENAI, _KEYS | _READ)
ANTHROPIC_WORK = _told(ANTHROPIC, _KEYS | WORK)
OLLAMA_WORK = _told(OLLAMA, _KEYS | WORK)
OLLAMA_READ = _told(OLLAMA, _KEYS | _READ)
"""Of routes of other APIs, as their clients know errors."""
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def describe_keys(app: FastAPI, settings: Settings) -> None:
    """Have the description of `app` say that keys are needed."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()  # which keeps it
            schema.setdefault("components", {})["securitySchemes"] = SCHEMES
            for path, operations in schema["paths"].items():
                if not is_open(path, settings):
                    for operation in operations.values():
                        operation["security"] = [{name: []} for name in SCHEMES]
                        for status, answer in problems(401, 429).items():
                            # In the form of the operation's other errors: of another API, its own.
                            own = operation["responses"].get("503", answer)["content"]
                            told = {**answer, "content": own}
                            operation["responses"].setdefault(str(status), told)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
