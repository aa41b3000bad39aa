"""Every error of the service as `application/problem+json` (RFC 9457); where another API is spoken,
as its clients know it (`app.envelopes`).

Raise a `Problem` anywhere in a request; whatever else goes wrong becomes one here.
"""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.envelopes import RETRY_HEADER, UNSUPPORTED, Told, dialect_of
from app.paths import outer_prefix
from model.engine.request import Failed
from model.errors import ContextLengthError, PenwrightError, UsageError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = "1"
"""For `Retry-After`: places in the queue come free within steps, which take milliseconds."""


class Problem(HTTPException):
    """An error that a client gets to see.

    Args:
        status: of the answer.
        name: identifies the kind of problem: the end of its `type`.
        detail: what is wrong, with the value and what is allowed.
        extra: further members of the problem.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers) if headers else None)
        self.name = name
        self.extra = dict(extra or {})

    def body(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """The members of the problem, for the request that `scope` is of.

        The state of the request is told what it is answered, for its log line, metrics and trace.
        """
        state = scope.get("state", {})
        state["problem"] = self.name or self._phrase.lower().replace(" ", "-")
        dialect, request_id = dialect_of(scope), state.get("request_id")
        if dialect is not None:
            error, *_ = self.extra.get("errors") or [{}]
            field = error.get("field")
            told = Told(self.status_code, self.name, self.detail, field, request_id)
            return dialect.body(told)
        return {
            "type": f"tag:penwright,2025:{self.name}" if self.name else "about:blank",
            "title": self._phrase,
            "status": self.status_code,
            "detail": self.detail,
            "instance": scope.get("path", ""),
            "request_id": request_id,
            **self.extra,
        }

    @property
    def _phrase(self) -> str:
        return HTTPStatus(self.status_code).phrase

    def response(self, scope: Mapping[str, Any]) -> JSONResponse:
        headers, media_type = dict(self.headers or {}), MEDIA_TYPE
        dialect = dialect_of(scope)
        if dialect is not None:
            media_type = JSONResponse.media_type
            if self.status_code == 504 and dialect.sends_again:
                headers[RETRY_HEADER] = "false"
        return JSONResponse(
            self.body(scope), self.status_code, headers=headers, media_type=media_type
        )


def invalid(field: str, message: str, value: Any = None) -> Problem:
    """A 422 for one field, found after the schema was satisfied."""
    return _invalid([{"field": field, "message": message, **_shown(value)}])


def _invalid(
    errors: Sequence[Mapping[str, Any]], status: int = 422, name: str = "invalid-field"
) -> Problem:
    detail = "; ".join(f"{error['field']}: {error['message']}" for error in errors[:3])
    if len(errors) > 3:
        detail += f"; and {len(errors) - 3} more"
    return Problem(status, name, detail, extra={"errors": list(errors)})


def unavailable(name: str, detail: str) -> Problem:
    """A 503: loading, draining or broken."""
    return Problem(503, name, detail, headers={"Retry-After": RETRY_SECONDS})


def beyond_context(what: str, number: int, tokens: int, limit: int, advice: str) -> Problem:
    """A 400 for a text that is read as a whole, and is longer than the model's context."""
    return Problem(
        400,
        "context-length",
        f"{what} {number} has {tokens} tokens, more than the model's context of {limit}; {advice}",
        extra={f"{what}_tokens": tokens, "context_length": limit},
    )


def queue_full(detail: str) -> Problem:
    return Problem(429, "queue-full", detail, headers={"Retry-After": RETRY_SECONDS})


def late(detail: str) -> Problem:
    return Problem(504, "deadline", detail)


def internal() -> Problem:
    """Says nothing of the inside; the log has the rest, under the request's id."""
    return Problem(500, "internal", "something went wrong here; the log has it under request_id")


def of_failure(failed: Failed, form: str = "response_format") -> Problem:
    """The problem of a request that the engine gave up.

    Args:
        form: the field that says what its text must be.
    """
    if failed.reason == "deadline":
        return late(failed.message)
    if failed.reason == "constraint":
        return invalid(form, failed.message)
    if failed.reason == "shutdown":
        return unavailable("draining", failed.message)
    return Problem(500, "internal", f"the request was given up: {failed.message}; see the log")


def of_exception(error: PenwrightError) -> Problem:
    if isinstance(error, ContextLengthError):
        return Problem(400, "context-length", str(error))
    if isinstance(error, UsageError):
        return Problem(422, "invalid-field", str(error))
    return internal()


def install(app: FastAPI) -> None:
    """Make `app` answer every error that reaches it with a problem.

    What no handler here knows is caught further out, by `app.http.requests`.
    """

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        cause = error.__cause__
        if isinstance(error, Problem):
            return error.response(request.scope)
        if error.status_code == 400 and isinstance(cause, ValueError | RecursionError):
            return _unreadable(cause).response(request.scope)
        error = Problem(error.status_code, "", _detail(request, error), headers=error.headers)
        return error.response(request.scope)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return _of_validation(error, dialect_of(request.scope) is not None).response(request.scope)

    @app.exception_handler(PenwrightError)
    async def _known(request: Request, error: PenwrightError) -> JSONResponse:
        return of_exception(error).response(request.scope)


def _detail(request: Request, error: HTTPException) -> str:
    """What Starlette and FastAPI leave unsaid in their own errors."""
    if error.status_code == 404:
        docs = f"{outer_prefix(request.scope)}/docs"
        return f"there is nothing at {request.scope['path']}; {docs} lists what there is"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.scope['path']} does not answer {request.method}; it answers {allowed}"
    return str(error.detail)


def _unreadable(cause: Exception) -> Problem:
    """For a body that Python's JSON reader refused otherwise than for its syntax."""
    if isinstance(cause, UnicodeDecodeError):
        reason = f"is not UTF-8: wrong bytes at {cause.start}"
    elif isinstance(cause, RecursionError):
        reason = "is nested too deeply; no field has lists in lists or objects"
    else:
        reason = "has a number of too many digits"
    return Problem(400, "malformed-json", f"the body {reason}; send a JSON object in UTF-8")


def _of_validation(error: RequestValidationError, foreign: bool) -> Problem:
    """
    Args:
        foreign: whether the API is another's, of whose parameters some are not supported.
    """
    entries = error.errors()
    if entries and entries[0]["type"] == "json_invalid":
        reason, place = entries[0]["ctx"]["error"], entries[0]["loc"][-1]
        return Problem(400, "malformed-json", f"the body is not JSON: {reason} at {place}")
    unsupported = [e for e in entries if e["type"] in (UNSUPPORTED, "extra_forbidden")]
    if foreign and unsupported:
        return _invalid(_told(unsupported, error.body), 400, "unsupported-parameter")
    return _invalid(_told(entries, error.body))


def _told(entries: Sequence[Mapping[str, Any]], body: Any) -> list[dict[str, Any]]:
    """Each of pydantic's errors once, as a problem tells it."""
    errors: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        field = _field(entry["loc"], body, entry["type"] == "missing")
        message = entry["msg"].removeprefix("Value error, ")
        if field == "body" and isinstance(entry.get("input"), bytes):
            message = "must be JSON, with the header Content-Type: application/json"
        if field == "body" and entry["type"] == "missing":
            message = "is missing; send a JSON object"
        value = {} if entry["type"] == "missing" else _shown(entry.get("input"))
        errors[field, message] = {"field": field, "message": message, **value}
    return list(errors.values())


def _field(location: Sequence[int | str], body: Any, missing: bool) -> str:
    """`("body", "prompt", "list", 2)` is the field `prompt[2]`.

    Of a union's members, `list` here, the names say nothing to a client: a name that is no key of
    the body at its place is left out, unless it is `missing` there.
    """
    name, value = "", body
    for place, part in enumerate(location[1:], 2):
        if isinstance(part, int):
            name += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif not name:
            name, value = part[:100], value.get(part) if isinstance(value, dict) else None
        elif isinstance(value, dict) and (part in value or (missing and place == len(location))):
            name, value = f"{name}.{part[:100]}", value.get(part)
    return name or "body"


def _shown(value: Any) -> dict[str, Any]:
    """The value of a field if it is a number; texts can be long and are not echoed."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"value": str(value)}
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64):
        return {"value": value}
    return {}
