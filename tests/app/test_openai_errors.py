"""Errors below /v1 are in OpenAI's envelope, so that the official client raises what it should."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from .conftest import CONTEXT, Live, serve
from .test_leaving import send

LONG: dict[str, Any] = {"model": "base", "prompt": "a", "max_tokens": CONTEXT - 1}
CHAT: dict[str, Any] = {"model": "instruct", "messages": [{"role": "user", "content": "Say it."}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "base", "prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {**CHAT, "max_tokens": 1},
    "/v1/embeddings": {"model": "base", "input": "a"},
}


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The members of an answer's error, after a look at what every error has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error"}
    found: dict[str, Any] = body["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["message"]
    return found


UNSUPPORTED: list[tuple[str, str, Any]] = [
    *(
        ("/v1/completions", name, value)
        for name, value in {
            "best_of": 2,
            "suffix": "end",
            "invented": 1,
            "max_completion_tokens": 5,
        }.items()
    ),
    *(
        ("/v1/chat/completions", name, value)
        for name, value in {
            "audio": {"voice": "alloy", "format": "wav"},
            "function_call": "auto",
            "functions": [{"name": "f"}],
            "metadata": {"a": "b"},
            "modalities": ["text", "audio"],
            "moderation": {"model": "m"},
            "prediction": {"type": "content", "content": "a"},
            "prompt_cache_key": "a",
            "prompt_cache_options": {"mode": "explicit"},
            "prompt_cache_retention": "24h",
            "reasoning_effort": "low",
            "safety_identifier": "a",
            "service_tier": "flex",
            "store": True,
            "verbosity": "low",
            "web_search_options": {},
            "invented": None,
        }.items()
    ),
    ("/v1/embeddings", "dimensions", 8),
    ("/v1/embeddings", "truncate", True),
]


@pytest.mark.parametrize(("path", "name", "value"), UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(
    client: httpx.Client, path: str, name: str, value: Any
) -> None:
    # What else is wrong is not what has to be told.
    body = {**BODIES[path], name: value, "seed": -1}
    found = error(client.post(path, json=body), 400)
    assert found["param"] == name
    assert found["code"] == "unsupported_parameter"
    assert found["type"] == "invalid_request_error"
    assert name in found["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "content": "a", "name": "b"}, "messages[0]"),
        ({"role": "user", "content": "a", "name": "b"}, "messages[0].name"),
        ({"role": "assistant", "content": "a", "refusal": "b"}, "messages[0].refusal"),
        *(
            ({"role": "user", "content": [{"type": kind, kind: {}}]}, "messages[0].content[0]")
            for kind in ("image_url", "input_audio", "file", "refusal")
        ),
    ],
)
def test_messages_that_are_no_text_are_refused(ai: openai.OpenAI, message: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError, match="not supported") as raised:
        ai.chat.completions.create(
            model="instruct", messages=[message, {"role": "user", "content": "a"}]
        )
    assert raised.value.param == param
    assert raised.value.code == "unsupported_parameter"


def test_what_asks_for_nothing_is_accepted(client: httpx.Client) -> None:
    """`null` everywhere, and the other values of parameters that mean the same as none."""
    off: dict[str, list[dict[str, Any]]] = {path: [{}] for path in BODIES}
    document = client.get("/openapi.json").json()
    for path, body in BODIES.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        schema = content["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
        fields = document["components"]["schemas"][schema]["properties"]
        nullable = {
            name: None
            for name, field in fields.items()
            if name not in body
            and (None in field.get("enum", ()) or {"type": "null"} in field.get("anyOf", ()))
        }
        assert set(fields) - set(body) == set(nullable)
        off[path].append(nullable)
        off[path] += [
            {name: value} for name, field in fields.items() for value in field.get("enum", ())
        ]
    assert {"functions": []} in off["/v1/chat/completions"]
    assert {"best_of": 1} in off["/v1/completions"]
    for path, additions in off.items():
        for addition in additions:
            answer = client.post(path, json={**BODIES[path], **addition})
            assert answer.status_code == 200, (path, addition, answer.text)


INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": [[]]}, "prompt[0]"),
    ("/v1/completions", {"prompt": ["a", 1]}, "prompt[1]"),
    ("/v1/completions", {"prompt": [1, "a"]}, "prompt[1]"),
    ("/v1/completions", {"prompt": [300]}, "prompt"),
    ("/v1/completions", {"prompt": [[1], [-1]]}, "prompt[1][0]"),
    ("/v1/completions", {"prompt": ["a"] * 65}, "prompt"),
    ("/v1/completions", {"n": 65}, "prompt"),
    ("/v1/completions", {"max_tokens": 0}, "max_tokens"),
    ("/v1/completions", {"temperature": -1}, "temperature"),
    ("/v1/completions", {"logprobs": 21}, "logprobs"),
    ("/v1/completions", {"logit_bias": {"300": 1}}, "logit_bias"),
    ("/v1/completions", {"logit_bias": {"5": 101}}, "logit_bias.5"),
    ("/v1/completions", {"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ("/v1/completions", {"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
    ("/v1/completions", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("/v1/completions", {"user": "a" * 257}, "user"),
    ("/v1/completions", {"response_format": {"type": "regex", "regex": "("}}, "response_format"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages[0].content[0].text",
    ),
    ("/v1/chat/completions", {"top_logprobs": 1}, "top_logprobs"),
    ("/v1/chat/completions", {"max_completion_tokens": 1}, "max_completion_tokens"),
    ("/v1/chat/completions", {"n": 65}, "messages"),
    ("/v1/embeddings", {"input": ""}, "input"),
    ("/v1/embeddings", {"input": []}, "input"),
    ("/v1/embeddings", {"input": ["a", ""]}, "input[1]"),
    ("/v1/embeddings", {"input": [[]]}, "input[0]"),
    ("/v1/embeddings", {"input": [300]}, "input"),
    ("/v1/embeddings", {"input": ["a"] * 2049}, "input"),
    ("/v1/embeddings", {"encoding_format": "int8"}, "encoding_format"),
]


@pytest.mark.parametrize(
    ("path", "change", "param"), INVALID, ids=lambda value: json.dumps(value)[:40]
)
def test_an_invalid_field_is_named(
    client: httpx.Client, path: str, change: dict[str, Any], param: str
) -> None:
    found = error(client.post(path, json={**BODIES[path], **change}), 422)
    assert found["param"] == param
    assert found["code"] == "invalid_value"
    assert found["type"] == "invalid_request_error"
    assert param in found["message"]


def test_half_a_surrogate_pair_is_no_text(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for path, body in (
        ("/v1/completions", r'{"prompt": "\ud800"}'),
        ("/v1/chat/completions", r'{"messages": [{"role": "user", "content": "\ud800"}]}'),
        ("/v1/embeddings", r'{"input": ["\ud800"]}'),
        ("/v1/completions", r'{"prompt": "a", "user": "\ud800"}'),
        ("/v1/completions", r'{"prompt": "a", "logit_bias": {"\ud800": 1}}'),
    ):
        error(client.post(path, content=body, headers=headers), 422)


def test_the_last_message_must_be_the_users(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="the last one must be the user's"):
        ai.chat.completions.create(
            model="instruct",
            messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        )


def test_what_does_not_fit_the_context_is_refused_with_the_numbers(ai: openai.OpenAI) -> None:
    text = "a" * CONTEXT
    calls: list[Any] = [
        lambda: ai.completions.create(model="base", prompt=text),
        lambda: ai.completions.create(model="base", prompt="a", max_tokens=CONTEXT),
        lambda: ai.chat.completions.create(
            model="instruct",
            messages=[
                {"role": "user", "content": text},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
            ],
        ),
        lambda: ai.embeddings.create(model="base", input=["a", text + "a"]),
    ]
    for call in calls:
        with pytest.raises(openai.BadRequestError, match=rf"context of {CONTEXT}") as raised:
            call()
        assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=rf"max_tokens is {CONTEXT}: together"):
        calls[1]()


def test_models_that_are_not_there_or_cannot_do_it(ai: openai.OpenAI) -> None:
    calls: list[tuple[Any, str]] = [
        (lambda: ai.models.retrieve("nobody"), "no model 'nobody'"),
        (lambda: ai.completions.create(model="nobody", prompt="a"), "no model 'nobody'"),
        (lambda: ai.embeddings.create(model="nobody", input="a"), "no model 'nobody'"),
        (
            lambda: ai.chat.completions.create(**{**CHAT, "model": "base"}),
            "'base' was not trained to follow instructions.*instruct",
        ),
        (lambda: ai.completions.create(model="spam", prompt="a"), "does not answer"),
    ]
    for call, message in calls:
        with pytest.raises(openai.NotFoundError, match=message) as raised:
            call()
        assert raised.value.code == "model_not_found"
        assert raised.value.request_id


def test_unknown_paths_methods_and_bodies(ai: openai.OpenAI, client: httpx.Client) -> None:
    with pytest.raises(openai.NotFoundError, match="nothing at /v1/responses"):
        ai.responses.create(model="base", input="a")
    error(client.get("/v1"), 404)
    assert "answers POST" in error(client.get("/v1/completions"), 405)["message"]
    headers = {"Content-Type": "application/json"}
    for content, status in ((b'{"prompt": ', 400), (b"[]", 422), (b"\xff", 400), (b"", 422)):
        error(client.post("/v1/completions", content=content, headers=headers), status)
    # Elsewhere, errors are problems.
    answer = client.post("/generate", json={})
    assert answer.headers["content-type"] == "application/problem+json"


def with_client(live: Live, **settings: Any) -> contextlib.closing[openai.OpenAI]:
    values = {"api_key": "none", "max_retries": 0, **settings}
    return contextlib.closing(openai.OpenAI(base_url=f"{live.url}/v1", **values))


def test_middleware_answers_in_the_envelope_too(checkpoints: Path) -> None:
    key = "a-key-of-some-length"
    with serve(models=checkpoints, api_key=key, max_body_bytes=2000) as live:
        with with_client(live) as ai, pytest.raises(openai.AuthenticationError) as raised:
            ai.models.list()
        assert raised.value.type == "authentication_error"
        assert raised.value.code == "unauthorized"
        with with_client(live, api_key=key) as ai:
            assert ai.models.retrieve("base")
            with pytest.raises(openai.APIStatusError, match="2000") as large:
                ai.completions.create(model="base", prompt="a" * 2000)
            assert large.value.status_code == 413
            assert large.value.code == "body_too_large"


@pytest.fixture
def small(checkpoints: Path) -> Iterator[Live]:
    """A service with one slot and one place in the queue."""
    with serve(models=checkpoints, slots=1, max_waiting=1, max_batch=1) as live:
        yield live


def test_a_full_queue_is_tried_again(small: Live) -> None:
    waiting = {**LONG, "ignore_eos": True}
    connections = [send(small, "/v1/completions", waiting)]
    small.wait(lambda: small.running() == 1)
    connections.append(send(small, "/v1/completions", waiting))
    small.wait(lambda: small.waiting() == 1)
    with with_client(small) as hasty, pytest.raises(openai.RateLimitError) as raised:
        hasty.completions.create(**BODIES["/v1/completions"])
    assert raised.value.code == "queue_full"
    assert raised.value.type == "rate_limit_error"
    assert float(raised.value.response.headers["retry-after"]) <= 5

    def refused() -> bool:
        line = 'route="/v1/completions",status="429"} 2.0'
        return line in small.client.get("/metrics").text

    with with_client(small, max_retries=1) as patient, ThreadPoolExecutor(1) as pool:
        body = BODIES["/v1/completions"]
        answer = pool.submit(lambda: patient.completions.create(**body))
        small.wait(refused)
        for connection in connections:
            connection.close()
        assert answer.result(20).object == "text_completion"


def test_a_request_past_its_deadline_is_not_tried_again(checkpoints: Path) -> None:
    own: Any = {"n": 8, "extra_body": {"ignore_eos": True}}
    with serve(models=checkpoints, request_timeout=0.7) as live:
        with with_client(live, max_retries=2) as ai:
            with pytest.raises(openai.InternalServerError) as raised:
                ai.completions.create(**LONG, **own)
            assert raised.value.status_code == 504
            assert raised.value.code == "deadline"
            assert raised.value.type == "server_error"
            # In the middle of a stream, it is what the client raises from it.
            with pytest.raises(openai.APIError, match="time is over") as broken:
                for _ in ai.completions.create(**LONG, **own, stream=True):
                    pass
            assert not isinstance(broken.value, openai.APIStatusError)
            assert broken.value.code == "deadline"
        live.wait(lambda: live.running() == 0)
        metrics = live.client.get("/metrics").text
        assert 'route="/v1/completions",status="504"} 1.0' in metrics


def test_a_service_that_shuts_down_says_so(checkpoints: Path) -> None:
    with serve(models=checkpoints) as live, with_client(live) as ai:
        live.service.drain()
        with pytest.raises(openai.InternalServerError) as raised:
            ai.chat.completions.create(**CHAT)
        assert raised.value.status_code == 503
        assert raised.value.code == "draining"
        assert raised.value.response.headers["retry-after"]


def test_an_unexpected_error_shows_nothing_of_the_inside(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(models=checkpoints) as live, with_client(live) as ai:

        def fail(*_: Any) -> None:
            raise RuntimeError("secret path")

        monkeypatch.setattr(live.service, "any_model", fail)
        with pytest.raises(openai.InternalServerError) as raised:
            ai.embeddings.create(model="base", input="a")
        assert raised.value.type == "server_error"
        assert "secret" not in str(raised.value.body)
