"""Requests that nobody would write, made from the service's own description of itself.

Schemathesis makes them, valid and not; what it cannot write, raw bytes and JSON that is no text, is
written here. Nothing may be answered other than the description says, and nothing with a 5xx.
The default tier makes the same cases each time; `make soak` makes others, and thousands of them.
"""

import json
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.engine import StopReason, from_schema
from schemathesis.engine.events import EngineFinished, FatalError, NonFatalError, ScenarioFinished
from schemathesis.hooks import unregister

from app.keys.key_file import KeyEntry, digest, dump_entries

from .conftest import Live, serve

# What a description says of limits that depend on the model or on settings: a text that does not
# fit the context, a token that is not in the vocabulary, a schema that cannot be kept to.
POSSIBLE = [200, 400, 404, 422]
KEY = "a-key-that-may-do-all"
HEADERS = {"X-API-Key": KEY}
NEW_TOKENS = ("max_new_tokens", "max_tokens", "max_completion_tokens")
OLLAMA_LIMIT = ("options", "num_predict")


def configuration(examples: int, *, deterministic: bool) -> schemathesis.Config:
    return schemathesis.Config.from_dict(
        {
            "generation": {
                "mode": "all",
                "max-examples": examples,
                "deterministic": deterministic,
                "no-shrink": True,
                "database": "none",
            },
            "checks": {
                "positive_data_acceptance": {"expected-statuses": POSSIBLE},
                # What has too many items can be too large as well: 413.
                "negative_data_rejection": {"expected-statuses": ["4xx"]},
                # The key is sent whatever a case says; test_who_has_no_key_… is without it.
                "ignored_auth": {"enabled": False},
                "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx"]},
            },
            "headers": HEADERS,
            "phases": {"stateful": {"enabled": False}},  # no call needs what another made
            "request-timeout": 30,
            "warnings": False,
        }
    )


@pytest.fixture(scope="module")
def fuzzed(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service of its own: fuzzing reloads its models, and fills its cache with rubbish."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    entry = KeyEntry(label="fuzz", sha256=digest(KEY), admin=True, max_priority=9)
    keys.write_bytes(dump_entries([entry]))
    with serve(models=checkpoints, request_timeout=20, api_keys=keys) as live:
        live.client.headers.update(HEADERS)
        yield live
        live.wait(lambda: live.service.in_flight == 0)
        live.wait(lambda: live.running() == 0 and live.waiting() == 0)
        for engine_client in live.service.engine_clients():
            stats = engine_client.stats()
            assert stats.free_blocks == stats.blocks, "a block of the cache is lost"
            assert not engine_client._submitted
        assert live.client.get("/readyz").status_code == 200


def token_limits(document: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Where the field is that bounds the length of the answer, of each path that has one."""
    found = {}
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        name = content.get("application/json", {}).get("schema", {}).get("$ref", "").split("/")[-1]
        properties = document["components"]["schemas"].get(name, {}).get("properties", {})
        fields = [field for field in NEW_TOKENS if field in properties]
        if fields:
            found[path] = (fields[0],)
        elif "OllamaOptions" in json.dumps(properties):
            found[path] = OLLAMA_LIMIT
    return found


def limited(body: Any, limit: tuple[str, ...]) -> Any:
    """A body that asks for a few new tokens at most, which test as much as a thousand. What is no
    number stays as it is."""
    if not isinstance(body, dict):
        return body
    name, *rest = limit
    if rest:
        inner = body.get(name)
        return {**body, name: limited({} if inner is None else inner, tuple(rest))}
    value = body.get(name, 128)
    endless = limit == OLLAMA_LIMIT[1:] and value in (None, -1, -2)
    many = isinstance(value, int) and value > 3
    return {**body, name: 3} if many or endless else body


def fuzz(live: Live, config: schemathesis.Config) -> Counter[str]:
    """Run all phases of Schemathesis.

    Returns:
        answers by operation and status; `failures`
    """
    url = f"{live.url}/openapi.json"
    limits = token_limits(httpx.get(url).json())
    answers: Counter[str] = Counter()

    def before_call(context: Any, case: schemathesis.Case, kwargs: Any) -> None:
        if case.path in limits:
            case.body = limited(case.body, limits[case.path])

    def after_call(context: Any, case: schemathesis.Case, response: Any) -> None:
        answers[f"{case.method} {case.path} {response.status_code}"] += 1

    hooks = (before_call, after_call)
    for hook in hooks:
        schemathesis.hook(hook)
    try:
        schema = schemathesis.openapi.from_url(url, config=config)
        ran = list(from_schema(schema).execute())
    finally:
        for hook in hooks:
            unregister(hook)
    broken = [event for event in ran if isinstance(event, NonFatalError | FatalError)]
    assert not broken, "\n\n".join(map(repr, broken))
    [end] = [event for event in ran if isinstance(event, EngineFinished)]
    assert end.stop_reason is StopReason.COMPLETED
    failures = {
        f"{failure.operation}: {failure.title}": failure.message
        for event in ran
        if isinstance(event, ScenarioFinished)
        for checks in event.recorder.checks.values()
        for check in checks
        if check.failure_info is not None
        for failure in [check.failure_info.failure]
    }
    assert not failures, "\n\n".join(f"{name}\n{text}" for name, text in failures.items())
    return answers


def test_every_operation_keeps_to_its_description(fuzzed: Live) -> None:
    answers = fuzz(fuzzed, configuration(2, deterministic=True))
    document = fuzzed.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            tried = f"{method.upper()} {path}"
            assert any(name.startswith(f"{tried} 2") for name in answers), f"{tried} never worked"
            if "requestBody" in methods[method]:
                refused = sum(answers[f"{tried} {status}"] for status in (400, 422))
                assert refused > 10, f"{tried} got nothing wrong"


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_operation_keeps_to_its_description_for_long(
    fuzzed: Live, record_property: Callable[[str, object], None]
) -> None:
    answers = fuzz(fuzzed, configuration(400, deterministic=False))
    record_property("requests", sum(answers.values()))
    told = json.dumps(answers, indent=1, sort_keys=True)
    sys.stdout.write(f"\n{sum(answers.values())} requests: {told}\n")


# ---- what Schemathesis does not write ----

STRANGE = (
    rb'"\ud800"',  # half a surrogate pair
    rb'["\udfff\ud800"]',
    rb'"\u0000"',
    b'"\x00"',
    b'"\xff\xfe"',
    b"1e400",
    b"-1e400",
    b"NaN",
    b"1" + b"0" * 400,
    b"1" + b"0" * 5000,
    b"-0.0",
    b"9223372036854775808",
    b"true",
    b"null",
    b"[" * 5000 + b"]" * 5000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"type":"json_schema","json_schema":{"schema":{"a":' + b"[" * 900 + b"]" * 900 + b"}}}",
    b'""',
    b"[]",
    b"{}",
    b'["\x00", 1, null, {}, []]',
    b'"' + b"a" * 100_000 + b'"',
)


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """Path, field and body: each field of each operation with each strange value."""
    schemas, limits = document["components"]["schemas"], token_limits(document)
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        schema = schemas.get(schema.get("$ref", "").split("/")[-1], schema)
        examples = content.get("application/json", {}).get("examples", {})
        known = next((example["value"] for example in examples.values()), {})
        known = {
            name: value for name, value in known.items() if name not in ("stream", *NEW_TOKENS)
        }
        limit = limits.get(path, ("",))
        if path in limits:
            known = limited(known, limit)
        for field in schema.get("properties", {}):
            others = {name: value for name, value in known.items() if name != field}
            rest = json.dumps(others).encode()[1:-1]
            for value in STRANGE:
                if field == limit[0] and value in (b"null", b"{}"):
                    continue  # as many tokens as there is room for
                end = b", " + rest if rest else b""
                yield path, field, b'{"%s": %s%s}' % (field.encode(), value, end)


def test_strange_values_in_every_field(fuzzed: Live) -> None:
    document = fuzzed.client.get("/openapi.json").json()
    tried = 0
    for path, field, body in bodies(document):
        answer = fuzzed.client.post(
            path, content=body, headers={"Content-Type": "application/json"}
        )
        documented = document["paths"][path]["post"]["responses"]
        told = f"{path} {field} {body[:60]!r}: {answer.status_code} {answer.text[:200]}"
        assert answer.status_code < 500, told
        assert str(answer.status_code) in documented, told
        kind = answer.headers["content-type"].split(";")[0]
        assert kind in documented[str(answer.status_code)]["content"], told
        if kind == "application/json":
            answer.json()
        tried += 1
    assert tried > 500


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json;;;=",
        "\xff",
        "x" * 5000,
    ],
)
def test_wrong_content_types(fuzzed: Live, kind: str | None) -> None:
    document = fuzzed.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        if "requestBody" in methods.get("post", {}):
            for body in (b"{}", b"", b"\x00", b"a=b", b"--x--", b"<a/>", b"\xff\xfe{\x00}\x00"):
                headers = {} if kind is None else {b"Content-Type": kind.encode("latin-1")}
                answer = fuzzed.client.post(path, content=body, headers=headers)
                assert answer.status_code in (400, 415, 422), f"{path}: {answer.text}"
                assert str(answer.status_code) in methods["post"]["responses"]


def test_who_has_no_key_learns_nothing(fuzzed: Live) -> None:
    """What stands around all routes is in the description of each, too."""
    document = fuzzed.client.get("/openapi.json").json()
    open_ = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            url = fuzzed.url + path.replace("{", "").replace("}", "")
            for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic \xff"}):
                raw = {name: value.encode("latin-1") for name, value in headers.items()}
                answer = httpx.request(method, url, headers=raw)
                if "security" not in operation:
                    open_ += 1
                    assert answer.status_code == 200
                    continue
                assert answer.status_code == 401
                kind = answer.headers["content-type"]
                assert kind in operation["responses"]["401"]["content"], path
    assert open_ == 3 * 2  # /healthz and /readyz


def test_a_body_that_is_too_large_is_in_the_description(fuzzed: Live) -> None:
    document = fuzzed.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        if "requestBody" in methods.get("post", {}):
            answer = fuzzed.client.post(path, content=b" " * (1 << 21))
            assert answer.status_code == 413
            documented = methods["post"]["responses"]["413"]["content"]
            assert answer.headers["content-type"] in documented, path


def test_methods_that_are_none(fuzzed: Live) -> None:
    document = fuzzed.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        allowed = {method.upper() for method in methods} | {"HEAD", "OPTIONS"}
        for method in ("DELETE", "PUT", "PATCH", "TRACE", "PROPFIND", "GET", "POST"):
            if method not in allowed:
                answer = fuzzed.client.request(method, path)
                assert answer.status_code == 405, f"{method} {path}: {answer.text}"
                assert answer.headers["allow"]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /generate\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\n\r\n",
        b"FROB /generate HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%00%ff%2e%2e/%2e%2e/etc HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /web/..%2f..%2fcli.py HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /docs/assets/..%5c..%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
    ],
)
def test_raw_bytes(fuzzed: Live, request_: bytes) -> None:
    address = httpx.URL(fuzzed.url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    # The connection may be closed without an answer.
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
