"""Errors in OpenAI's envelope, which their clients turn into exceptions.

    {"error": {"message": …, "type": …, "param": …, "code": …}}

The request's id is in the header X-Request-ID, where the clients look for it.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.paths import route_path

RETRY_HEADER = "x-should-retry"
"""`false` tells OpenAI's clients not to send a request again; by default they do after any 5xx."""
UNSUPPORTED = "unsupported_parameter"
"""Kind of pydantic's errors for parameters of OpenAI's that nothing here does."""

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


def is_openai(scope: Mapping[str, Any]) -> bool:
    """Whether a request is one below /v1."""
    path = route_path(scope)
    return path.startswith("/v1/") or path == "/v1"


def envelope(status: int, name: str, message: str, param: str | None) -> dict[str, Any]:
    """The body of an error.

    Args:
        name: the kind of problem, as `app.errors.Problem` has it; may be empty.
    """
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = _CODES.get(name, name.replace("-", "_")) or None
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
