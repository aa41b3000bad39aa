"""Log lines, as the program writes them: JSON whatever happens, with the ids of their request."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.ops.context import REQUEST_CONTEXT, RequestContext
from app.ops.logs import JSONFormatter, RequestIds

from .conftest import Live, events, process, until_ready


def formatted(**values: Any) -> dict[str, Any]:
    line = JSONFormatter().format(logging.makeLogRecord({"msg": "m", **values}))
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return found


def test_every_line_of_the_program_is_json(checkpoints: Path) -> None:
    with process("--models", str(checkpoints)) as (started, url):
        until_ready(started, url)
        headers = {"X-Request-ID": "mine"}
        body = {"prompt": "The sea", "max_new_tokens": 5, "ignore_eos": True, "n": 2}
        usage = httpx.post(f"{url}/generate", json=body, headers=headers).json()["usage"]
        httpx.post(f"{url}/generate", json={"prompt": 5}, headers=headers)
        httpx.get(f"{url}/nowhere")
        started.terminate()
        assert started.stderr is not None
        lines = [json.loads(line) for line in started.stderr.read().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    # uvicorn's own, too.
    assert any("running on" in line["message"] for line in lines if line["logger"][:7] == "uvicorn")
    done, refused = [line for line in lines if line.get("request_id") == "mine"]
    assert done["logger"] == refused["logger"] == "app.access"
    assert done["model"] == "base"
    assert done["sequences"] == 2
    assert done["completion_tokens"] == usage["completion_tokens"] == 10
    assert done["finish"] == ["length"]
    assert 0 <= done["queue"] <= done["ttft"] < done["seconds"]
    assert refused["problem"] == "invalid-field"
    assert refused["status"] == 422
    assert "model" not in refused
    [lost] = [line for line in lines if line.get("path") == "/nowhere"]
    assert (lost["status"], lost["problem"]) == (404, "not-found")


def test_what_is_logged_deep_inside_has_the_request_id(
    live: Live, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the event loop and in the threads that it hands work to, with many requests at once."""
    caplog.handler.addFilter(RequestIds())
    tokenizer = live.service.any_model(None).base.tokenizer
    encode = tokenizer.encode

    def encode_and_tell(text: str) -> list[int]:
        logging.getLogger("app.deep").info("encoding", extra={"length": len(text)})
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", encode_and_tell)
    with caplog.at_level(logging.INFO):
        for length in (10, 30_000):  # the second is encoded in a thread
            text = "a" * length
            live.client.post(
                "/tokenize", json={"text": text}, headers={"X-Request-ID": f"r{length}"}
            )
    found = [(r.length, r.request_id) for r in caplog.records if r.name == "app.deep"]  # type: ignore[attr-defined]
    assert found == [(10, "r10"), (30_000, "r30000")]


def test_a_stream_that_breaks_is_in_its_line(
    live: Live, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.native.generate.usage", lambda *_: 1 / 0)
    caplog.handler.addFilter(RequestIds())
    body = {"prompt": "a", "max_new_tokens": 3, "stream": True, "ignore_eos": True}
    with caplog.at_level(logging.INFO):
        with live.client.stream("POST", "/generate", json=body) as answer:
            found = events(answer)
            request_id = answer.headers["x-request-id"]
        live.wait(lambda: any(r.name == "app.access" for r in caplog.records))
    assert found[-1][0] == "error"
    assert found[-1][1]["request_id"] == request_id
    [error] = [r for r in caplog.records if r.name == "app.api.responses"]
    [access] = [r for r in caplog.records if r.name == "app.access"]
    lines = [json.loads(JSONFormatter().format(record)) for record in (error, access)]
    assert [line["request_id"] for line in lines] == [request_id] * 2
    assert "ZeroDivisionError" in lines[0]["exception"]
    assert lines[1]["stream_error"] == 500
    assert lines[1]["problem"] == "internal"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_poll_that_succeeds_is_no_news(
    live: Live, guarded: Live, caplog: pytest.LogCaptureFixture, path: str, method: str
) -> None:
    def lines() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "app.access"]

    with caplog.at_level(logging.DEBUG):
        assert live.client.request(method, path).status_code == 200
        live.wait(lambda: bool(lines()))
        assert [record.levelno for record in lines()] == [logging.DEBUG]
        caplog.clear()
        if path == "/metrics":  # refused, which is news
            assert guarded.client.request(method, path).status_code == 401
        else:
            assert live.client.post(path).status_code == 405
        live.wait(lambda: bool(lines()))
        assert [record.levelno for record in lines()] == [logging.INFO]


def test_no_request_no_id() -> None:
    record = logging.makeLogRecord({})
    assert RequestIds().filter(record)
    assert not hasattr(record, "request_id")
    token = REQUEST_CONTEXT.set(RequestContext("one"))
    try:
        assert RequestIds().filter(record)
    finally:
        REQUEST_CONTEXT.reset(token)
    assert record.request_id == "one"  # type: ignore[attr-defined]


def test_an_exception_is_within_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        line = formatted(exc_info=sys.exc_info(), stack_info="Stack\nof calls")
    assert "ValueError" in line["exception"]
    assert line["stack"] == "Stack\nof calls"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, object(), b"\xff", "\ud800", {1}])
def test_any_value_makes_a_line_that_is_json(value: object) -> None:
    assert "value" in formatted(value=value)
