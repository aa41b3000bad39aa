"""The errors of the routes, for the API's description."""

from typing import Any

from app.api.native.answers import ProblemBody
from app.errors import MEDIA_TYPE

_WHEN = {
    400: "Longer than the model's context, no JSON, or no HTTP",
    401: "No API key, an unknown or an expired one",
    403: "Not allowed to whoever asks",
    404: "No such model, or none for this task",
    408: "The body did not arrive in time",
    409: "Goes on already, or cannot be done with what is there",
    413: "The body is too large",
    422: "A field is invalid",
    429: "The queue is full; Retry-After says when to come back",
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

WORK = problems(400, 404, 408, 413, 422, 429, 500, 503, 504)
"""Of routes that run a model."""
