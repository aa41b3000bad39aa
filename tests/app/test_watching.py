"""What operators and developers look at: metrics, logs, request ids, the API's pages."""

import io
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.ops.logs import JSONFormatter, TextFormatter

from .conftest import Live, events, serve


def test_metrics_have_the_documented_names(checkpoints: Path) -> None:
    with serve(models=checkpoints) as live:
        live.client.get("/readyz")
        body = {"prompt": "The sea", "max_new_tokens": 7, "ignore_eos": True}
        live.client.post("/generate", json=body)
        live.client.post("/generate", json={"prompt": 5})
        answer = live.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = answer.text
        tokens = len(live.client.post("/tokenize", json={"text": "The sea"}).json()["tokens"])
    for line in (
        "penwright_requests_running 0.0",
        "penwright_requests_waiting 0.0",
        'penwright_requests_total{key="",route="/generate",status="200"} 1.0',
        'penwright_requests_total{key="",route="/generate",status="422"} 1.0',
        # Health probes are not counted as work.
        f'penwright_tokens_total{{kind="prompt"}} {tokens}.0',
        'penwright_tokens_total{kind="completion"} 7.0',
        'penwright_request_seconds_count{route="/generate"} 2.0',
        'penwright_time_to_first_token_seconds_count{model="base",task="generate"} 1.0',
    ):
        assert line in text.splitlines()
    assert 'penwright_request_seconds_bucket{le="0.001",route="/generate"}' in text


def test_unknown_paths_do_not_make_new_series(client: httpx.Client) -> None:
    client.get("/some/random/path/123")
    text = client.get("/metrics").text
    assert "random" not in text
    assert 'route="unmatched",status="404"' in text


def test_two_apps_do_not_share_figures(checkpoints: Path) -> None:
    with serve(models=checkpoints) as one, serve(models=checkpoints) as two:
        one.client.get("/healthz")
        assert 'route="/healthz"' in one.client.get("/metrics").text
        assert 'route="/healthz"' not in two.client.get("/metrics").text


def test_a_sane_request_id_is_kept_and_another_replaced(client: httpx.Client) -> None:
    answer = client.get("/healthz", headers={"X-Request-ID": "trace-1.2:3_4"})
    assert answer.headers["x-request-id"] == "trace-1.2:3_4"
    seen = set()
    for insane in ("", "a b", "x" * 129, "<script>", 'a"b'):
        answer = client.get("/nowhere", headers={"X-Request-ID": insane})
        made = answer.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
        assert answer.json()["request_id"] == made
        seen.add(made)
    assert len(seen) == 5


def test_the_same_request_id_twice_at_once_is_no_conflict(client: httpx.Client) -> None:
    headers = {"X-Request-ID": "same"}
    body = {"prompt": ["a", "b"], "n": 2, "max_new_tokens": 3}
    assert client.post("/generate", json=body, headers=headers).is_success
    assert client.post("/generate", json=body, headers=headers).is_success


def test_log_lines_are_json_and_hold_no_texts(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        headers = {"X-Request-ID": "logged"}
        body = {"prompt": "a secret thought", "max_new_tokens": 2}
        live.client.post("/generate?key=hidden", json=body, headers=headers)
        live.client.post("/generate", json={"prompt": ["a secret thought", 5]}, headers=headers)
        live.client.post("/classify", json={"text": "a secret thought"}, headers=headers)
        live.wait(lambda: sum(r.name == "app.access" for r in caplog.records) >= 3)
    lines = [
        JSONFormatter().format(record) for record in caplog.records if record.name[:4] == "app."
    ]
    assert not any("secret" in line or "hidden" in line for line in lines)
    [first, second, _] = [json.loads(line) for line in lines if '"logged"' in line]
    assert first["method"] == "POST"
    assert first["path"] == "/generate"
    assert first["status"] == 200
    assert second["status"] == 422
    assert first["seconds"] > 0
    assert first["request_id"] == "logged"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])


@pytest.mark.parametrize("formatter", [JSONFormatter(), TextFormatter()])
def test_a_log_record_is_one_line_with_its_fields(formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    record = logging.makeLogRecord({"msg": "two\nlines", "levelname": "INFO", "seconds": 0.25})
    handler.handle(record)
    assert "seconds" in stream.getvalue()
    assert "0.25" in stream.getvalue()
    if isinstance(formatter, JSONFormatter):
        assert json.loads(stream.getvalue())["message"] == "two\nlines"
        assert stream.getvalue().count("\n") == 1


class Links(HTMLParser):
    """Everything that a page loads or points to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_pages_load_everything_from_here(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    links = Links()
    links.feed(page.text)
    assert len(links.found) == 3
    for link in links.found:
        assert link.startswith("./docs/assets/")
        assert client.get(link).status_code == 200
    script = client.get("/docs/assets/swagger-ui-bundle.js")
    assert "SwaggerUIBundle" in script.text
    style = client.get("/docs/assets/swagger-ui.css").text
    assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style)
    # The checker of a public server is switched off.
    assert '"validatorUrl": null' in page.text


ENDS = {"/v1/messages": ("message_stop", {"type": "message_stop"})}
"""Of streams that end otherwise than the rest."""


def test_every_example_of_the_description_runs_as_it_stands(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    ran = 0
    for path, methods in description["paths"].items():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {})
            examples = content.get("application/json", {}).get("examples", {})
            if "requestBody" in operation:
                assert examples, f"{path} has no example"
            for example in examples.values():
                answer = client.post(path, json=example["value"])
                assert answer.status_code == 200, answer.text
                kind = answer.headers["content-type"].split(";")[0]
                if example["value"].get("stream"):
                    assert kind == "text/event-stream"
                    assert events(answer)[-1] == ENDS.get(path, ("message", "[DONE]"))
                elif kind == "application/x-ndjson":
                    assert json.loads(answer.text.splitlines()[-1])["done"] is True
                ran += 1
    assert ran >= 8


def test_the_description_tells_the_errors_and_every_field(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    for path in ("/generate", "/classify", "/instruct"):
        responses: dict[str, Any] = description["paths"][path]["post"]["responses"]
        expected = {"200", "400", "403", "404", "408", "413", "415", "422", "429"}
        expected |= {"500", "503", "504"}
        assert set(responses) == expected
        for status in expected - {"200"}:
            assert list(responses[status]["content"]) == ["application/problem+json"]
    for name in ("GenerateRequest", "ClassifyRequest", "InstructRequest"):
        schema = description["components"]["schemas"][name]
        assert schema["additionalProperties"] is False
        for field, entry in schema["properties"].items():
            assert entry.get("description"), f"{name}.{field} is not described"
    assert "HTTPValidationError" not in description["components"]["schemas"]
