"""How the clients of each API are told of an error: in the form that they turn into exceptions.

    OpenAI, /v1              {"error": {"message": …, "type": …, "param": …, "code": …}}
    Anthropic, /v1/messages  {"type": "error", "error": {"type": …, "message": …}, "request_id": …}
    Ollama, /api             {"error": …}

Elsewhere an error is a problem of `app.errors`. The request's id is in the header X-Request-ID of
every answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.paths import route_path

RETRY_HEADER = "x-should-retry"
"""`false` tells OpenAI's and Anthropic's clients not to send a request again; by default they do
after any 5xx."""
UNSUPPORTED = "unsupported_parameter"
"""Kind of pydantic's errors for parameters that nothing here does."""


@dataclass(frozen=True)
class Told:
    """What a client is to know of an error."""

    status: int
    name: str
    """The kind of problem, as `app.errors.Problem` has it; may be empty."""
    message: str
    field: str | None
    """The one that is wrong."""
    request_id: str | None


@dataclass(frozen=True)
class Dialect:
    """One API's way to tell of errors."""

    path: str
    """Under which it is."""
    model: type[BaseModel]
    """What its bodies are."""
    body: Callable[[Told], dict[str, Any]]
    sends_again: bool = False
    """Whether its clients repeat a request after any 5xx, unless `RETRY_HEADER` forbids it."""
    request_id: str | None = None
    """The header in which its clients look for the request's id, beside X-Request-ID."""


ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
]
_TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_CODES = {
    "context-length": "context_length_exceeded",
    "invalid-field": "invalid_value",
    "task-not-served": "model_not_found",
    "unknown-model": "model_not_found",
    "rate-limit": "rate_limit_exceeded",
}
"""Codes that OpenAI has its own name for; others are the problem's name."""


class ErrorMembers(BaseModel):
    message: str
    type: ErrorType
    param: str | None = Field(description="The field that is wrong.")
    code: str | None = Field(description="The kind of error, for programs.")


class ErrorBody(BaseModel):
    """An error as OpenAI's API tells it."""

    error: ErrorMembers


def _openai(told: Told) -> dict[str, Any]:
    kind: ErrorType = "server_error" if told.status >= 500 else "invalid_request_error"
    members = {
        "message": told.message,
        "type": _TYPES.get(told.status, kind),
        "param": told.field,
        "code": _CODES.get(told.name, told.name.replace("-", "_")) or None,
    }
    return {"error": members}


AnthropicErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "timeout_error",
    "overloaded_error",
]
_ANTHROPIC_TYPES: dict[int, AnthropicErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicErrorMembers(BaseModel):
    type: AnthropicErrorType
    message: str


class AnthropicErrorBody(BaseModel):
    """An error as Anthropic's API tells it."""

    type: Literal["error"]
    error: AnthropicErrorMembers
    request_id: str | None


def _anthropic(told: Told) -> dict[str, Any]:
    kind: AnthropicErrorType = "api_error" if told.status >= 500 else "invalid_request_error"
    members = {"type": _ANTHROPIC_TYPES.get(told.status, kind), "message": told.message}
    return {"type": "error", "error": members, "request_id": told.request_id}


class OllamaErrorBody(BaseModel):
    """An error as Ollama's API tells it."""

    error: str


def _ollama(told: Told) -> dict[str, Any]:
    return {"error": told.message}


OPENAI = Dialect("/v1", ErrorBody, _openai, sends_again=True)
ANTHROPIC = Dialect(
    "/v1/messages", AnthropicErrorBody, _anthropic, sends_again=True, request_id="Request-ID"
)
OLLAMA = Dialect("/api", OllamaErrorBody, _ollama)


def dialect_of(scope: Mapping[str, Any]) -> Dialect | None:
    """That of the path of a request; None for Penwright's own API."""
    path = route_path(scope)
    for dialect in (ANTHROPIC, OPENAI, OLLAMA):
        if f"{path}/".startswith(f"{dialect.path}/"):
            return dialect
    return None
