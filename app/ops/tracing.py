"""OpenTelemetry traces, sent by OTLP over HTTP. Off unless asked for; needs the extra `tracing`.

Each HTTP request is a server span, which continues the trace of an incoming `traceparent`. Below it
are what the engine did for it: `queue`, `prefill` and `decode`, made from the engine's own times
when the request ends. Attributes are those of OpenTelemetry's conventions for HTTP and for
generative AI. Spans are sent by a thread of its own: a collector that is slow or away costs a
request nothing, and what does not fit the queue is dropped.

    penwright-serve --tracing-endpoint http://127.0.0.1:4318

OpenTelemetry's own variables are honoured: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…, and OTEL_SDK_DISABLED.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from app.ops.context import POLLED, RequestContext, Work
from app.paths import route_path
from model.engine.request import Generate
from model.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

SHUTDOWN_SECONDS = 2.0
"""For the last spans to go out when the service stops."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
_OPERATIONS = {"generate": "text_completion", "instruct": "chat", "embed": "embeddings"}
"""`gen_ai.operation.name` of a task; the conventions have none for classification."""


def make_tracing(endpoint: str | None) -> "Tracing | None":
    """What traces requests; None if nobody asked for traces.

    Args:
        endpoint: of the collector; one without a path gets /v1/traces. Default: the environment's.

    Raises:
        UsageError: the endpoint is no address, or OpenTelemetry is not installed.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    source = "--tracing-endpoint"
    if endpoint is None:
        source = next((name for name in _ENDPOINTS if os.environ.get(name, "").strip()), "")
        if not source or os.environ.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
            return None
    else:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"{source} is {endpoint!r}; it must be like http://collector:4318")
        if parts.path in ("", "/"):
            endpoint = f"{endpoint.rstrip('/')}/v1/traces"
    try:
        return Tracing(_provider(endpoint))
    except ImportError as error:
        raise UsageError(
            f"{source} is set, but OpenTelemetry is not installed: pip install '.[tracing]' in "
            "Penwright's directory"
        ) from error


def _provider(endpoint: str | None) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or "penwright"
    resource = Resource.create({"service.name": name})
    # Not at exit: that would wait for a collector that is away, for half a minute.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


class Tracing:
    """Makes the spans of requests."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("penwright")
        self._propagator = TraceContextTextMapPropagator()

    def start(self, scope: Scope, request: RequestContext) -> "RequestSpan | None":
        """Begin the span of an HTTP request, and give `request` its trace id."""
        from opentelemetry.trace import SpanKind

        if route_path(scope) in POLLED:
            return None
        headers = Headers(scope=scope)
        context = self._propagator.extract(dict(headers))
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        span = self._tracer.start_span(
            "HTTP" if method == "_OTHER" else method,
            context=context,
            kind=SpanKind.SERVER,
            attributes=_http_attributes(scope, headers, method),
        )
        request.trace_id = f"{span.get_span_context().trace_id:032x}"
        span.set_attribute("http.request.header.x-request-id", [request.request_id])
        return RequestSpan(self._tracer.start_span, span)

    def shutdown(self) -> None:
        """Send what is left, as far as there is time. Blocks."""
        # A thread that nobody waits for: the exporter may be in the middle of a long wait.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(SHUTDOWN_SECONDS)


class RequestSpan:
    """The span of one HTTP request, which has begun."""

    def __init__(self, start_span: Callable[..., "Span"], span: "Span") -> None:
        self._start_span = start_span
        self._span = span
        # Engine times are on another clock, which is not set anew while the service runs.
        self._epoch = time.time_ns() - int(time.monotonic() * 1e9)

    def end(self, scope: Scope, request: RequestContext, status: int) -> None:
        """The answer is complete, or has been given up.

        Args:
            status: of the answer; 499 for a client that left.
        """
        from opentelemetry.trace import Status, StatusCode

        span = self._span
        if span.is_recording():
            route = getattr(scope.get("route"), "path", None)
            if route:
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            failed = request.stream_error or status
            if failed >= 400:
                kind = (request.problem or str(failed)).replace("-", "_")
                span.set_attribute("error.type", kind)
            if failed >= 500:  # what a client did wrong is no error of the server's span
                span.set_status(Status(StatusCode.ERROR, request.problem))
            for work in request.work:
                span.set_attributes(_model_attributes(work))
                self._phases(work)
        span.end()

    def _phases(self, work: Work) -> None:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        ends = (("queue", work.queue), ("prefill", work.first), ("decode", work.end))
        start = 0.0
        for name, end in ends:
            if end <= start and name != "queue":
                continue  # a label has no decode; what was given up has nothing more
            span = self._start_span(name, context=context, start_time=self._at(work, start))
            span.set_attribute("gen_ai.request.model", work.model)
            span.end(end_time=self._at(work, end))
            start = end

    def _at(self, work: Work, seconds: float) -> int:
        return self._epoch + int((work.submitted + seconds) * 1e9)


def _http_attributes(scope: Scope, headers: Headers, method: str) -> dict[str, Any]:
    found = {
        "http.request.method": method,
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
        "network.protocol.version": scope["http_version"],
    }
    if method == "_OTHER":
        found["http.request.method_original"] = scope["method"]
    if "user-agent" in headers:
        found["user_agent.original"] = headers["user-agent"]
    for name, address in (("client", scope.get("client")), ("server", scope.get("server"))):
        if address is not None:
            found[f"{name}.address"] = address[0]
            if address[1] is not None:
                found[f"{name}.port"] = address[1]
    return found


def _model_attributes(work: Work) -> dict[str, Any]:
    """Of the conventions for generative AI. Never texts."""
    found: dict[str, Any] = {
        "gen_ai.provider.name": "penwright",
        "gen_ai.operation.name": _OPERATIONS.get(work.task, work.task),
        "gen_ai.request.model": work.model,
        "gen_ai.response.model": work.model,
        "gen_ai.response.finish_reasons": work.reasons,
        "gen_ai.usage.input_tokens": work.prompt_tokens,
        "gen_ai.usage.output_tokens": work.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": work.cached_tokens,
        "penwright.sequences": len(work.requests),
    }
    want = work.requests[0].want
    if isinstance(want, Generate):
        sampling = want.sampling
        found |= {
            "gen_ai.request.max_tokens": want.max_new_tokens,
            "gen_ai.request.stream": want.stream,
            "gen_ai.request.temperature": float(sampling.temperature),
            "gen_ai.request.top_p": float(sampling.top_p),
            "gen_ai.request.frequency_penalty": float(sampling.frequency_penalty),
            "gen_ai.request.presence_penalty": float(sampling.presence_penalty),
        }
        if sampling.top_k is not None:
            found["gen_ai.request.top_k"] = sampling.top_k
        if sampling.seed is not None and sampling.seed < 1 << 63:  # more is not in the protocol
            found["gen_ai.request.seed"] = sampling.seed
    if work.first_token is not None:
        found["gen_ai.response.time_to_first_chunk"] = work.first_token
    return found
