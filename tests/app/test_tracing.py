"""Traces, as a collector receives them: decoded from what really comes over HTTP."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app.ops.logs import JSONFormatter, RequestIds
from app.ops.tracing import make_tracing
from model.errors import UsageError

from .conftest import Live, environment, free_port, serve
from .test_leaving import LONG, send

PARENT_TRACE, PARENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """What a collector's OTLP/HTTP receiver does: takes protobuf at /v1/traces."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                found = self.path == "/v1/traces"
                if found and self.headers["Content-Type"] == "application/x-protobuf":
                    collector.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@pytest.fixture
def traced(
    checkpoints: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Live]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # ms, in place of 5 s
    with serve(models=checkpoints, tracing_endpoint=collector.url, slots=1) as live:
        yield live


def attributes(span: Span) -> dict[str, Any]:
    """Of a span, as Python values."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(item) for item in value.array_value.values]
        return getattr(value, kind)

    return {entry.key: plain(entry.value) for entry in span.attributes}


def trace_of(live: Live, collector: Collector, request_id: str) -> tuple[Span, dict[str, Span]]:
    """The server span of a request, and its children by name."""

    def server() -> Span | None:
        wanted = [request_id]
        return next(
            (s for s in collector.spans if attributes(s).get(REQUEST_ID) == wanted),
            None,
        )

    live.wait(lambda: server() is not None)
    span = server()
    assert span is not None
    children = [s for s in collector.spans if s.parent_span_id == span.span_id]
    assert all(child.trace_id == span.trace_id for child in children)
    return span, {child.name: child for child in children}


REQUEST_ID = "http.request.header.x-request-id"


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_its_phases(
    traced: Live, collector: Collector, stream: bool
) -> None:
    before = time.time_ns()
    answer = traced.client.post(
        "/generate",
        json={
            "prompt": "The sea",
            "max_new_tokens": 12,
            "ignore_eos": True,
            "stream": stream,
            "temperature": 0.5,
            "seed": 2**63 - 1,
            "n": 2,
        },
        headers={"X-Request-ID": "first", "traceparent": f"00-{PARENT_TRACE}-{PARENT_SPAN}-01"},
    )
    assert answer.is_success
    span, phases = trace_of(traced, collector, "first")
    assert span.name == "POST /generate"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.trace_id.hex() == PARENT_TRACE
    assert span.parent_span_id.hex() == PARENT_SPAN
    assert span.status.code != Status.STATUS_CODE_ERROR
    found = attributes(span)
    expected = {
        "http.request.method": "POST",
        "http.route": "/generate",
        "http.response.status_code": 200,
        "url.path": "/generate",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "base",
        "gen_ai.request.max_tokens": 12,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stream": stream,
        "gen_ai.usage.output_tokens": 24,
        "gen_ai.response.finish_reasons": ["length", "length"],
        "penwright.sequences": 2,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["gen_ai.usage.input_tokens"] > 0
    assert 0 < found["gen_ai.response.time_to_first_chunk"] < seconds(span)
    # They follow one another within the span, and take most of it.
    assert set(phases) == {"queue", "prefill", "decode"}
    queue, prefill, decode = phases["queue"], phases["prefill"], phases["decode"]
    assert before <= span.start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano
    assert decode.end_time_unix_nano <= span.end_time_unix_nano <= time.time_ns()
    if not stream:
        timings = answer.json()["timings"]
        # There is one slot: the second of the two waited for the first.
        assert seconds(queue) == pytest.approx(timings["queue"], abs=1e-5)
        assert seconds(queue) + seconds(prefill) + seconds(decode) <= seconds(span)


def test_what_goes_wrong_is_in_the_trace(traced: Live, collector: Collector) -> None:
    def ask(request_id: str, **body: Any) -> None:
        traced.client.post("/generate", json=body, headers={"X-Request-ID": request_id})

    ask("invalid", prompt=5)
    span, phases = trace_of(traced, collector, "invalid")
    assert attributes(span)["http.response.status_code"] == 422
    assert attributes(span)["error.type"] == "invalid_field"
    assert span.status.code != Status.STATUS_CODE_ERROR  # it is the client's
    assert not phases

    connection = send(traced, "/generate", {**LONG, "stream": True})
    traced.wait(lambda: traced.running() == 1)
    connection.close()
    traced.wait(lambda: traced.running() == 0)
    traced.wait(lambda: any(attributes(s).get("error.type") == "499" for s in collector.spans))

    [engine_client] = traced.service.engine_clients()
    engine_client.stop(0.0)
    ask("dead", prompt="a")
    span, _ = trace_of(traced, collector, "dead")
    assert attributes(span)["http.response.status_code"] == 503
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == span.status.message.replace("-", "_") == "draining"


def test_no_text_and_no_health_check_is_in_a_trace(traced: Live, collector: Collector) -> None:
    headers = {"X-Request-ID": "last"}
    for path in ("/healthz", "/readyz", "/metrics"):
        assert traced.client.get(path).is_success
    traced.client.post("/classify", json={"text": "secret"})
    traced.client.post("/instruct?x=secret", json={"instruction": "secret", "max_new_tokens": 2})
    body = {"prompt": "secret", "max_new_tokens": 2, "stop": "secret"}
    traced.client.post("/generate", json=body, headers=headers)
    trace_of(traced, collector, "last")
    assert not any(b"secret" in request.SerializeToString() for request in collector.requests)
    names = {span.name for span in collector.spans}
    assert {"POST /classify", "POST /instruct", "POST /generate"} <= names
    assert not any(part in name for part in ("healthz", "readyz", "metrics") for name in names)
    resource = collector.requests[0].resource_spans[0].resource
    named = {entry.key: entry.value.string_value for entry in resource.attributes}
    assert named["service.name"] == "penwright"


def test_under_a_prefix_health_checks_have_no_trace_either(
    checkpoints: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with serve(models=checkpoints, tracing_endpoint=collector.url, root_path="/x") as live:
        for path in ("/healthz", "/readyz", "/metrics"):
            for way in ("/x", ""):
                assert live.client.get(way + path).is_success
        assert live.client.get("/x/models", headers={"X-Request-ID": "last"}).is_success
        trace_of(live, collector, "last")
    assert {span.name for span in collector.spans} == {"GET /models"}


def test_a_parent_that_is_not_sampled_is_not_sent(traced: Live, collector: Collector) -> None:
    for flag, name in (("00", "unsampled"), ("01", "sampled")):
        parent = f"00-{PARENT_TRACE}-{PARENT_SPAN}-{flag}"
        headers = {"X-Request-ID": name, "traceparent": parent}
        assert traced.client.get("/models", headers=headers).is_success
    trace_of(traced, collector, "sampled")
    sent = [attributes(span).get(REQUEST_ID) for span in collector.spans]
    assert ["sampled"] in sent
    assert ["unsampled"] not in sent


def test_a_garbled_traceparent_begins_a_new_trace(traced: Live, collector: Collector) -> None:
    headers = {"X-Request-ID": "garbled", "traceparent": "00-zz-\xff-01"}
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    assert traced.client.get("/models", headers=raw).is_success
    span, _ = trace_of(traced, collector, "garbled")
    assert not span.parent_span_id


def test_a_collector_that_is_away_delays_nothing(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither requests nor the end: 100 requests overflow the queue of 20 spans."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    endpoint = f"http://127.0.0.1:{free_port()}"
    with serve(models=checkpoints, tracing_endpoint=endpoint) as live:
        for _ in range(100):
            assert live.client.get("/models").status_code == 200
        body = {"prompt": "a", "max_new_tokens": 3}
        assert live.client.post("/generate", json=body).status_code == 200
        started = time.monotonic()
    # The exporter by itself would wait for half a minute.
    assert time.monotonic() - started < 10


def test_log_lines_have_the_trace_id(traced: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIds())
    with caplog.at_level(logging.INFO):
        parent = f"00-{PARENT_TRACE}-{PARENT_SPAN}-01"
        traced.client.get("/models", headers={"traceparent": parent})
        traced.wait(lambda: any(r.name == "app.access" for r in caplog.records))
    [record] = [r for r in caplog.records if r.name == "app.access"]
    assert f'"trace_id": "{PARENT_TRACE}"' in JSONFormatter().format(record)


# ---- on and off ----


def test_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    assert make_tracing(None) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with contextlib.closing(Closing(make_tracing(None))):
        pass
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert make_tracing(None) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert make_tracing("http://127.0.0.1:1") is None


class Closing:
    def __init__(self, tracing: Any) -> None:
        assert tracing is not None
        self.close = tracing.shutdown


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://a", "http://", "x"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="--tracing-endpoint"):
        make_tracing(endpoint)


def test_without_the_extra_the_start_says_what_to_install() -> None:
    """FastAPI brings a part of OpenTelemetry along; the rest is imported only when it is on."""
    code = """
import sys, app.cli
assert "opentelemetry.sdk" not in sys.modules
sys.modules["opentelemetry.sdk"] = None
sys.exit(app.cli.main(["--port", "0", "--tracing-endpoint", "http://127.0.0.1:1"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2, ended.stderr
    assert "pip install '.[tracing]'" in ended.stderr
    assert "Traceback" not in ended.stderr
