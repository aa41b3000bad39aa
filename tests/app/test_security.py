"""Who may call, what a browser may do with the answers, and what the log does not say."""

import asyncio
import base64
import hashlib
import http.client
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from app import cli
from app.main import create_app
from app.security.browsers import is_loopback
from app.security.key_file import KeyEntry, digest, dump_entries
from app.settings import Settings
from app.watching import logs
from model.errors import UsageError

from .conftest import Live, process, serve, until_ready

USER, ADMIN, LIMITED, OLD, ENV = (
    f"pw-{name}-0123456789" for name in ("user", "admin", "few", "old", "env")
)
OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/docs/assets", "/web/{name}"}
OPEN |= {"/web/settings.json"}


def write_keys(path: Path) -> Path:
    file = path / "keys.json"
    entries = [
        KeyEntry(label="user", sha256=digest(USER)),
        KeyEntry(label="ops", sha256=digest(ADMIN), admin=True),
        KeyEntry(label="few", sha256=digest(LIMITED), requests_per_minute=2),
        KeyEntry(label="old", sha256=digest(OLD), expires="2001-01-01T00:00:00Z"),  # type: ignore[arg-type]
    ]
    file.write_bytes(dump_entries(entries))
    return file


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = write_keys(tmp_path_factory.mktemp("keys"))
    with serve(models=checkpoints, api_keys=keys, api_key=ENV) as live:
        yield live


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def paths(app: FastAPI) -> set[str]:
    """Paths of all routes and mounted apps."""
    found = set()
    for route in app.routes:
        contexts = getattr(route, "effective_route_contexts", None)  # of a router, in new FastAPIs
        parts = [route] if contexts is None else contexts()
        found |= {part.path for part in parts}
    return found


# ---- keys ----


def send(url: str, method: str, target: str, **headers: str) -> tuple[int, dict[str, str]]:
    """A request with the path exactly as given."""
    address = httpx.URL(url)
    connection = http.client.HTTPConnection(address.host, address.port or 80, timeout=10)
    connection.request(method, target, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def test_every_route_needs_a_key_but_those_of_a_short_list(guarded: Live) -> None:
    app = guarded.server.config.app
    assert isinstance(app, FastAPI)
    found = paths(app)
    assert {"/generate", "/v1/models", "/metrics", "/admin/reload"} | OPEN <= found
    for path in sorted(found):
        target = path.format(name="style.css", model="base")
        if path == "/docs/assets":
            target += "/swagger-ui.css"
        statuses = {method: send(guarded.url, method, target)[0] for method in ("GET", "HEAD")}
        if path in OPEN:
            assert 401 not in statuses.values(), path
        else:
            assert set(statuses.values()) == {401}, path
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
            assert send(guarded.url, method, target)[0] == 401, (method, path)


@pytest.mark.parametrize(
    "target",
    [
        "/generate/",
        "//generate",
        "/./generate",
        "/x/../generate",
        "/healthz/../generate",
        "/web/../generate",
        "/%67enerate",
        "/generate%2f",
        "/GENERATE",
        "/generate?a=/healthz",
        "/generate#/healthz",
        "/generate;/healthz",
        "//healthz",
        "/healthz/",
        "/docs/",
        "/docs/assetsx",
        "/nothing",
        "*",
        "http://localhost/generate",
        "http://localhost/healthz/../generate",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_key(target: str, guarded: Live) -> None:
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        status = send(guarded.url, method, target)[0]
        # Under /web/ there is nothing but files of the page, and no path leads out of it.
        allowed = {401, 404} if target.startswith("/web/") else {401}
        assert status in allowed, (method, target)


def asgi(app: Any, **settings: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, **settings)
    return httpx.AsyncClient(transport=transport, base_url="http://here")


def test_a_route_that_is_added_later_is_guarded_wherever_the_app_is_mounted(
    checkpoints: Path, tmp_path: Path
) -> None:
    app = create_app(Settings(models=checkpoints, api_keys=write_keys(tmp_path)))

    async def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse("new")

    async def sub(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("mounted")(scope, receive, send)

    app.add_route("/new", answer)
    app.mount("/mounted", sub)
    outer = Starlette(routes=[Mount("/api", app)])

    async def ask() -> None:
        for prefix, client in (
            ("", asgi(app)),
            ("/api", asgi(app, root_path="/api")),  # as behind a proxy that keeps the prefix
            ("", asgi(app, root_path="/api")),  # and one that takes it off
            ("/api", asgi(outer)),
        ):
            async with client:
                for path in ("/new", "/mounted", "/mounted/healthz", "/generate", "/new/healthz"):
                    answer = await client.get(prefix + path)
                    assert answer.status_code == 401, (prefix, path)
                    answer = await client.get(prefix + path, headers=bearer(USER))
                    assert answer.status_code != 401
                assert (await client.get(f"{prefix}/healthz")).status_code == 200
                assert (await client.get(f"{prefix}/new", headers=bearer(USER))).text == "new"

    asyncio.run(ask())


def test_missing_and_wrong_keys_are_told_apart_and_never_repeated(guarded: Live) -> None:
    wrong = "pw-wrong-but-secret"
    for headers, detail, challenge in (
        ({}, "an API key is missing", "Bearer"),
        ({"Authorization": "Basic dTpw"}, "has no bearer token", "Bearer"),
        (bearer(wrong), "not known here", 'Bearer error="invalid_token"'),
        ({"X-API-Key": wrong}, "not known here", 'Bearer error="invalid_token"'),
        ({"Authorization": "Bearer"}, "not known here", 'Bearer error="invalid_token"'),
        (bearer("\xe9\xff"), "not known here", 'Bearer error="invalid_token"'),
        (bearer(digest(USER)), "not known here", 'Bearer error="invalid_token"'),
        (bearer(OLD), "expired at 2001-01-01 00:00 UTC", 'Bearer error="invalid_token"'),
    ):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = guarded.client.post("/generate", json={"prompt": "a"}, headers=raw)
        assert answer.status_code == 401
        assert detail in answer.json()["detail"]
        assert answer.headers["www-authenticate"] == challenge
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert wrong not in answer.text + str(answer.headers)


def test_a_known_key_opens_and_names_the_caller(guarded: Live) -> None:
    for headers, label in (
        (bearer(USER), "user"),
        ({"Authorization": f"bearer  {USER}"}, "user"),
        ({"X-API-Key": ADMIN}, "ops"),
        ({"X-API-Key": ENV, "Authorization": "Basic dTpw"}, "env"),
        ({"X-API-Key": "", **bearer(USER)}, "user"),
    ):
        answer = guarded.client.post("/tokenize", json={"text": "a"}, headers=headers)
        assert answer.status_code == 200, answer.text
        metrics = guarded.client.get("/metrics", headers=bearer(USER)).text
        assert f'requests_total{{key="{label}",route="/tokenize",status="200"}}' in metrics
        assert USER not in metrics


def test_the_description_says_which_paths_need_a_key(guarded: Live, live: Live) -> None:
    description = guarded.client.get("/openapi.json").json()
    for path, operations in description["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (path not in OPEN)
            assert path in OPEN or "401" in operation["responses"]
    assert "securitySchemes" not in live.client.get("/openapi.json").json()["components"]


def test_a_key_has_its_limit_and_reading_is_free(guarded: Live) -> None:
    headers = bearer(LIMITED)
    for left in ("1", "0"):
        answer = guarded.client.post("/tokenize", json={"text": "a"}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == left
    answer = guarded.client.post("/v1/completions", json={}, headers=headers)
    assert answer.status_code == 429
    assert 29 <= int(answer.headers["retry-after"]) <= 30
    assert answer.json()["error"]["type"] == "rate_limit_error" or answer.json()["error"]
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert guarded.client.get("/models", headers=headers).status_code == 200
    assert guarded.client.post("/tokenize", json={"text": "a"}, headers=bearer(USER)).is_success


def test_tokens_that_were_not_used_come_back(checkpoints: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    entry = KeyEntry(label="few", sha256=digest(USER), tokens_per_minute=300)
    file.write_bytes(dump_entries([entry]))
    with serve(models=checkpoints, api_keys=file) as live:
        body = {"prompt": "a", "max_new_tokens": 100, "seed": 1, "ignore_eos": True}
        stop = live.client.post("/generate", json=body, headers=bearer(USER)).json()
        stop = stop["choices"][0]["text"][5]
        body = {**body, "stop": stop}
        answer = live.client.post("/generate", json=body, headers=bearer(USER))
        used = 102 + answer.json()["usage"]["total_tokens"]
        body = {"prompt": "a", "max_new_tokens": 300}
        refused = live.client.post("/generate", json=body, headers=bearer(USER))
        assert refused.status_code == 429
        assert refused.json()["type"].endswith(":rate-limit")
        left = int(refused.headers["x-ratelimit-remaining-tokens"])
        # What fills up meanwhile is five a second.
        assert 300 - used - 2 <= left <= 300 - used + 60
        # One that is broken off counts what it might have used.
        body = {"prompt": "a", "max_new_tokens": 90, "stream": True, "ignore_eos": True}
        with live.client.stream("POST", "/generate", json=body, headers=bearer(USER)) as running:
            assert running.status_code == 200
            assert int(running.headers["x-ratelimit-remaining-tokens"]) <= left - 91 + 60


def test_requests_in_progress_are_bounded_and_probes_get_through(checkpoints: Path) -> None:
    long = {"prompt": "a", "max_new_tokens": 4000, "ignore_eos": True, "stream": True}
    with (
        serve(models=checkpoints, max_requests=1) as live,
        live.client.stream("POST", "/generate", json=long),
    ):
        answer = httpx.get(f"{live.url}/models")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert httpx.get(f"{live.url}/readyz").status_code == 200
        assert 'status="503"' in httpx.get(f"{live.url}/metrics").text


# ---- without keys ----


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "example.com", "127.0.0.1.nip.io"]
)
def test_it_does_not_listen_for_others_without_a_key(host: str, tmp_path: Path) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="PENWRIGHT_ALLOW_ANONYMOUS=1"):
        create_app(Settings(host=host))
    create_app(Settings(host=host, allow_anonymous=True))
    create_app(Settings(host=host, api_key=ENV))
    create_app(Settings(host=host, api_keys=write_keys(tmp_path)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_on_a_loopback_address_it_needs_none(host: str) -> None:
    create_app(Settings(host=host))


def test_the_program_refuses_in_a_line_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--host", "0.0.0.0", "--port", "0"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("penwright-serve: --host (PENWRIGHT_HOST) is '0.0.0.0'")
    assert len(text.splitlines()) == 1


def test_another_server_that_listens_for_others_is_noticed(checkpoints: Path) -> None:
    async def statuses(app: Any, server: Any, path: str) -> int:
        async def with_server(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "server": server}, receive, send)

        async with asgi(with_server) as client:
            return (await client.get(path)).status_code

    app = create_app(Settings(models=checkpoints))
    allowed = create_app(Settings(models=checkpoints, allow_anonymous=True))
    for server, expected in (
        (("192.168.1.4", 8000), 403),
        (("2001:db8::1", 8000), 403),
        (("127.0.0.1", 8000), 503),
        (("::1", 8000), 503),
        (("::ffff:127.0.0.1", 8000), 503),
        (("/run/penwright.sock", None), 503),
        (None, 503),
    ):
        assert asyncio.run(statuses(app, server, "/models")) == expected, server
        assert asyncio.run(statuses(app, server, "/healthz")) == 200
        assert asyncio.run(statuses(allowed, server, "/models")) == 503  # it is loading


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("10.1.2.3:80", 200),
        ("penwright", 200),
        ("penwright.LOCALHOST", 200),
        ("penwright.svc.cluster.local.", 200),
        ("own.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("user@evil.example", 403),
        ("[::1", 403),
    ],
)
def test_a_page_that_has_its_name_point_here_is_refused(
    host: str, status: int, named: Live, guarded: Live
) -> None:
    answer = named.client.get("/models", headers={"Host": host})
    assert answer.status_code == status, answer.text
    if status == 403:
        assert "--allowed-hosts" in answer.json()["detail"]
    # With keys, the name does not matter: a page has none.
    headers = {"Host": host, **bearer(USER)}
    assert guarded.client.get("/models", headers=headers).status_code == 200


@pytest.fixture(scope="module")
def named(checkpoints: Path) -> Iterator[Live]:
    with serve(
        models=checkpoints, allowed_hosts="own.example", cors_origins="https://good.example"
    ) as live:
        yield live


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost", "Host": "localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://behind.a.proxy", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://good.example", "Sec-Fetch-Site": "cross-site"}, 200),
    ],
)
def test_pages_of_other_origins_cannot_send_work(
    headers: dict[str, str], status: int, named: Live
) -> None:
    answer = named.client.post("/tokenize", json={"text": "a"}, headers=headers)
    assert answer.status_code == status, answer.text


def test_all_bodies_must_say_that_they_are_json(client: httpx.Client) -> None:
    """Other types are what a form of any page can send unasked."""
    description = client.get("/openapi.json").json()["paths"]
    posts = [path for path, operations in description.items() if "post" in operations]
    assert len(posts) >= 8
    for path in posts:
        for kind in (None, "text/plain", "application/x-www-form-urlencoded"):
            headers = {} if kind is None else {"Content-Type": kind}
            content = b'{"prompt": "a", "text": "a", "instruction": "a"}'
            answer = client.post(path, content=content, headers=headers)
            assert answer.status_code in (400, 403, 422), path
            if path != "/admin/reload":
                assert "application/json" in answer.text


# ---- headers ----


def test_answers_of_all_kinds_have_the_headers_of_a_careful_service(
    guarded: Live, named: Live
) -> None:
    known = bearer(USER)
    for answer, status, policy, cache in (
        (guarded.client.get("/healthz"), 200, "default-src 'none'", "no-store"),
        (guarded.client.get("/models"), 401, "default-src 'none'", "no-store"),
        (guarded.client.get("/models", headers=known), 200, "default-src 'none'", "no-store"),
        (guarded.client.get("/none", headers=known), 404, "default-src 'none'", "no-store"),
        (
            guarded.client.post("/generate", content=b" " * (1 << 20) + b" ", headers=known),
            413,
            "default-src 'none'",
            "no-store",
        ),
        (
            named.client.post("/generate", json={"prompt": "a", "stream": True}),
            200,
            "default-src 'none'",
            "no-store",
        ),
        (guarded.client.get("/"), 200, "default-src 'self'", "no-cache"),
        (guarded.client.get("/docs"), 200, "default-src 'self'", None),
    ):
        assert answer.status_code == status
        headers = answer.headers
        assert headers["content-security-policy"].startswith(policy)
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "microphone=()" in headers["permissions-policy"]
        assert headers.get("cache-control") == cache
        assert "x-request-id" in headers
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_the_script_in_docs_is_allowed_by_its_hash_and_no_other(client: httpx.Client) -> None:
    answer = client.get("/docs")
    [script] = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"script-src 'self' 'sha256-{sha256}';" in policy
    assert "script-src 'self' 'unsafe" not in policy


def test_pages_that_may_call_can_read_the_answers_and_why_they_were_refused(
    checkpoints: Path, tmp_path: Path
) -> None:
    origin = {"Origin": "https://good.example"}
    keys = write_keys(tmp_path)
    with serve(models=checkpoints, api_keys=keys, cors_origins=origin["Origin"]) as live:
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        }
        answer = live.client.options("/generate", headers={**origin, **asked})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        assert "authorization" in answer.headers["access-control-allow-headers"]
        evil = {"Origin": "https://evil.example", **asked}
        assert "access-control-allow-origin" not in live.client.options("/a", headers=evil).headers
        for headers, status in (({}, 401), (bearer(USER), 422)):
            answer = live.client.post("/generate", json={}, headers={**origin, **headers})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://good.example"
            exposed = answer.headers["access-control-expose-headers"]
            assert {"X-Request-ID", "X-Model-SHA256", "Retry-After"} <= set(exposed.split(", "))
        headers = {**origin, **bearer(USER)}
        answer = live.client.post("/generate", content=b" " * ((1 << 20) + 1), headers=headers)
        assert answer.status_code == 413
        assert answer.headers["access-control-allow-origin"] == "https://good.example"


def test_answers_of_work_say_which_model_gave_them(client: httpx.Client) -> None:
    cards = {card["name"]: card["checkpoint"] for card in client.get("/models").json()["models"]}
    for path, body, model in (
        ("/generate", {"prompt": "a"}, "base"),
        ("/generate", {"prompt": "a", "stream": True}, "base"),
        ("/classify", {"text": "a"}, "spam"),
        ("/classify", {"text": "a", "model": "base"}, None),
        ("/instruct", {"instruction": "a"}, "instruct"),
        ("/tokenize", {"text": "a", "model": "spam"}, "spam"),
        ("/v1/completions", {"prompt": "a", "model": "base"}, "base"),
        ("/generate", {"prompt": "a" * 10_000}, "base"),
    ):
        answer = client.post(path, json=body)
        assert answer.headers.get("x-model") == model
        assert answer.headers.get("x-model-sha256") == cards.get(model or "")


# ---- the log ----

MARK = "xyzzy-plugh"
PROGRAM = """
import sys
from app import cli
from model.tokenizer import Tokenizer
encode = Tokenizer.encode
def fail(self, text):
    if "explode" in text:
        try:
            {}[text]
        except KeyError:
            raise ValueError(f"cannot cut {text}")
    return encode(self, text)
Tokenizer.encode = fail
sys.exit(cli.main(sys.argv[1:]))
"""


def bodies(path: str) -> Iterator[Any]:
    """What is right and wrong for every route that has a body."""
    right = {"prompt": MARK, "text": MARK, "instruction": MARK, "input": MARK, "tokens": [1]}
    by_path: dict[str, dict[str, Any]] = {
        "/generate": {"prompt": MARK, "stop": MARK, "max_new_tokens": 4},
        "/classify": {"text": [MARK, MARK]},
        "/instruct": {"instruction": MARK, "input": MARK, "max_new_tokens": 4},
        "/tokenize": {"text": MARK},
        "/v1/completions": {"model": "base", "prompt": MARK, "max_tokens": 4},
        "/v1/chat/completions": {
            "model": "instruct",
            "messages": [{"role": "user", "content": MARK}],
            "max_tokens": 4,
        },
        "/v1/embeddings": {"model": "base", "input": MARK},
    }
    body = by_path.get(path, {})
    if body:
        yield body
        yield {**body, "stream": True}
        yield json.loads(json.dumps(body).replace(MARK, f"{MARK} explode"))
        yield {**body, "model": MARK}
        yield {**body, MARK: MARK}
    yield right
    yield {key: [MARK, {MARK: MARK}] for key in right}
    yield f'{{"prompt": "{MARK}'
    yield f'{{"prompt": "{MARK}\\ud800"}}'


def hammer(url: str, key: str) -> dict[int, int]:
    """Every route with every body; how often each status came."""
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=url, headers=bearer(key), timeout=30) as client:
        for path, operations in client.get("/openapi.json").json()["paths"].items():
            for method in operations:
                for body in bodies(path) if method == "post" else [""]:
                    content = body if isinstance(body, str) else json.dumps(body)
                    answer = client.request(
                        method,
                        path,
                        content=content,
                        params={"q": MARK},
                        headers={"Content-Type": "application/json", "X-Other": MARK},
                    )
                    statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        client.post("/generate", json={"prompt": MARK}, headers=bearer(MARK + MARK))
    return statuses


def test_neither_texts_nor_keys_are_in_the_log(checkpoints: Path) -> None:
    flags = ("--models", str(checkpoints), "--log-level", "debug")
    with process(*flags, program=("-c", PROGRAM), PENWRIGHT_API_KEY=ENV) as (started, url):
        reader = Reader(started)
        until_ready(started, url)
        statuses = hammer(url, ENV)
        started.terminate()
        started.wait(20)
        text = reader.text()
    assert {200, 400, 403, 404, 422, 500} <= set(statuses), statuses
    assert text.count("Traceback") >= statuses[500]
    assert "ValueError: (a message that may quote a request" in text
    assert "in fail" in text
    assert MARK not in text
    assert ENV not in text
    assert digest(ENV) not in text


@pytest.mark.parametrize("formatter", [logs.JSONFormatter(), logs.TextFormatter()])
def test_a_traceback_has_messages_only_of_kinds_that_quote_nothing(
    formatter: logging.Formatter,
) -> None:
    def line(logger: str, error: Exception) -> str:
        try:
            try:
                raise KeyError(MARK)
            except KeyError as cause:
                raise error from cause
        except Exception:
            record = logging.LogRecord(logger, 40, "", 1, "failed", (), sys.exc_info())
        logs.Discreet().filter(record)
        return formatter.format(record)

    assert MARK not in line("app.access", ValueError(MARK))
    assert MARK not in line("asyncio", ExceptionGroup(MARK, [ValueError(MARK)]))
    shown = line("uvicorn.error", RuntimeError("shapes 2 and 3 differ"))
    assert "shapes 2 and 3 differ" in shown
    assert MARK not in shown
    assert "raise KeyError(MARK)" in shown  # the line of the source
    assert f"KeyError: '{MARK}'" in line("app.loading", RuntimeError("at the start"))


def test_texts_are_logged_when_asked_for_cut_and_under_their_request(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(logs.RequestIds())
    body = {"prompt": [MARK, "b" * 3000], "max_new_tokens": 1}
    with serve(models=checkpoints, log_prompts=True) as live:
        answer = live.client.post("/generate", json=body, headers={"X-Request-ID": "mine"})
        assert answer.status_code == 200
    [record] = [record for record in caplog.records if hasattr(record, "texts")]
    assert vars(record)["request_id"] == "mine"
    assert vars(record)["texts"] == [MARK, "b" * 1000]


class Reader:
    """Reads what a process writes, so that its pipe does not fill up."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        self._pieces: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(started,), daemon=True)
        self._thread.start()

    def _read(self, started: subprocess.Popen[str]) -> None:
        assert started.stderr is not None
        self._pieces.extend(started.stderr)

    def text(self) -> str:
        self._thread.join(10)
        return "".join(self._pieces)
