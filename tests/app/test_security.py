"""Every route that works needs a key, and a key has its limits."""

import asyncio
import http.client
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from app.keys.key_file import KeyEntry, digest, dump_entries
from app.keys.limits import Limits
from app.main import create_app
from app.settings import Settings

from .conftest import Live, serve
from .with_keys import ADMIN, ENV, LIMITED, OLD, OPEN, USER, asgi, bearer, paths, write_keys


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
        body = {"prompt": "a", "max_new_tokens": 290}
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


def test_what_a_key_never_has_is_refused_before_any_of_it_is_done(
    checkpoints: Path, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    entry = KeyEntry(label="few", sha256=digest(USER), tokens_per_minute=2000)
    file.write_bytes(dump_entries([entry]))
    chat = {"messages": [{"role": "user", "content": "a"}], "model": "instruct"}  # to the context
    with serve(models=checkpoints, api_keys=file, max_batch=64) as live:
        steps = live.service.engine_clients()[0].stats().steps
        for path, body in (
            ("/v1/embeddings", {"model": "base", "input": [[1, 2, 3, 4]] * 501}),
            ("/classify", {"text": "+" * 100, "explain": True}),
            ("/generate", {"prompt": "a", "max_new_tokens": 700, "n": 3}),
            ("/v1/chat/completions", chat),
        ):
            answer = live.client.post(path, json=body, headers=bearer(USER))
            assert answer.status_code == 400, answer.text
            assert "more than it ever has" in answer.text
            assert "retry-after" not in answer.headers
            assert answer.headers["x-ratelimit-remaining-tokens"] == "2000"
        assert (
            "may take 2004"
            in live.client.post(
                "/v1/embeddings",
                json={"model": "base", "input": [[1, 2]] * 1002},
                headers=bearer(USER),
            ).json()["error"]["message"]
        )
        assert live.service.engine_clients()[0].stats().steps == steps


def test_what_is_done_in_parts_is_paid_at_once(checkpoints: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    entry = KeyEntry(label="few", sha256=digest(USER), tokens_per_minute=2000)
    file.write_bytes(dump_entries([entry]))
    now = 0.0
    with serve(models=checkpoints, api_keys=file, max_batch=64) as live:
        [key] = live.service.keys._keys
        key.limits = Limits(None, 2000, lambda: now)
        body = {"model": "base", "input": [[1, 2, 3]] * 512}
        answer = live.client.post("/v1/embeddings", json=body, headers=bearer(USER))
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"]) == 512
        assert answer.json()["usage"]["total_tokens"] == 1536
        assert answer.headers["x-ratelimit-remaining-tokens"] == "464"
        steps = live.service.engine_clients()[0].stats().steps
        answer = live.client.post("/v1/embeddings", json=body, headers=bearer(USER))
        assert answer.status_code == 429
        assert "may take 1536" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "33"  # 1072 tokens, 33.3 a second
        assert answer.headers["x-ratelimit-remaining-tokens"] == "464"
        assert live.service.engine_clients()[0].stats().steps == steps
        now += 33
        answer = live.client.post("/v1/embeddings", json=body, headers=bearer(USER))
        assert answer.status_code == 200, answer.text
        now += 60
        text = {"text": "+" * 40, "explain": True}
        explained = live.client.post("/classify", json=text, headers=bearer(USER))
        assert explained.status_code == 200, explained.text
        assert explained.headers["x-ratelimit-remaining-tokens"] == str(2000 - 40 * 40 - 1)
        # Of both texts, one of them alone would still fit.
        now += 60
        text = {"text": ["+" * 40] * 2, "explain": True}
        answer = live.client.post("/classify", json=text, headers=bearer(USER))
        assert answer.status_code == 400
        assert "may take 3202" in answer.json()["detail"]


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
