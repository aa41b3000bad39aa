"""What browsers are told with each answer, and which model gave it."""

import base64
import hashlib
import re
from pathlib import Path

import httpx

from .conftest import Live, serve
from .with_keys import USER, bearer, write_keys


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
    chat = {"model": "instruct", "messages": [{"role": "user", "content": "a"}]}
    cards = {card["name"]: card["checkpoint"] for card in client.get("/models").json()["models"]}
    for path, body, model in (
        ("/generate", {"prompt": "a"}, "base"),
        ("/generate", {"prompt": "a", "stream": True}, "base"),
        ("/classify", {"text": "a"}, "spam"),
        ("/classify", {"text": "a", "model": "base"}, None),
        ("/instruct", {"instruction": "a"}, "instruct"),
        ("/tokenize", {"text": "a", "model": "spam"}, "spam"),
        ("/v1/completions", {"prompt": "a", "model": "base"}, "base"),
        ("/v1/messages", {**chat, "max_tokens": 1}, "instruct"),
        ("/api/chat", {**chat, "options": {"num_predict": 1}}, "instruct"),
        ("/generate", {"prompt": "a" * 10_000}, "base"),
    ):
        answer = client.post(path, json=body)
        assert answer.headers.get("x-model") == model
        assert answer.headers.get("x-model-sha256") == cards.get(model or "")
