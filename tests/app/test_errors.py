"""Every bad input is a problem (RFC 9457) that says what is wrong."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.errors import TextError
from model.tokenizer import Tokenizer

from .conftest import CONTEXT, serve


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem of an answer, after a look at what every problem has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "request_id"} <= set(body)
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["instance"] == answer.request.url.path
    assert body["detail"]
    return body


GENERATE: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": ["a"] * 65}, "prompt"),
    ({"prompt": ["a"] * 9, "n": 8}, "prompt"),
    ({"prompt": [""] * 349_425}, "prompt"),
    ({"prompt": "a", "max_new_tokens": int("9" * 4300)}, "max_new_tokens"),
    ({"prompt": "a", "max_new_tokens": 1_000_001}, "max_new_tokens"),
    ({"prompt": "a", "top_k": int("9" * 4300)}, "top_k"),
    ({"prompt": "a", "seed": int("9" * 4300)}, "seed"),
    ({"prompt": "a", "n": int("9" * 4300)}, "n"),
    ({"prompt": "a", "logprobs": int("9" * 4300)}, "logprobs"),
    ({"prompt": "a", "temperature": int("9" * 4300)}, "temperature"),
    ({"prompt": "a", "repetition_penalty": 1e-300}, "repetition_penalty"),
    ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens"),
    ({"prompt": "a", "max_new_tokens": True}, "max_new_tokens"),
    ({"prompt": "a", "max_new_tokens": "5"}, "max_new_tokens"),
    ({"prompt": "a", "max_new_tokens": 1.5}, "max_new_tokens"),
    ({"prompt": "a", "temperature": -0.1}, "temperature"),
    ({"prompt": "a", "temperature": float("nan")}, "temperature"),
    ({"prompt": "a", "temperature": float("inf")}, "temperature"),
    ({"prompt": "a", "top_k": 0}, "top_k"),
    ({"prompt": "a", "top_p": 0}, "top_p"),
    ({"prompt": "a", "top_p": 1.01}, "top_p"),
    ({"prompt": "a", "min_p": -1}, "min_p"),
    ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
    ({"prompt": "a", "presence_penalty": 2.1}, "presence_penalty"),
    ({"prompt": "a", "frequency_penalty": -2.1}, "frequency_penalty"),
    ({"prompt": "a", "stop": ""}, "stop"),
    ({"prompt": "a", "stop": ["x", ""]}, "stop[1]"),
    ({"prompt": "a", "stop": ["x"] * 9}, "stop"),
    ({"prompt": "a", "seed": -1}, "seed"),
    ({"prompt": "a", "seed": 2**63}, "seed"),
    ({"prompt": "a", "n": 0}, "n"),
    ({"prompt": "a", "n": 9}, "n"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "stream": "yes"}, "stream"),
    ({"prompt": "a", "temprature": 1}, "temprature"),
]
OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("/instruct", {"instruction": ""}, "instruction"),
    ("/instruct", {"instruction": "a", "n": 2}, "n"),
    ("/classify", {"text": ""}, "text"),
    ("/classify", {"text": ["a", ""]}, "text[1]"),
    ("/classify", {"text": []}, "text"),
    ("/classify", {"text": ["a"] * 65}, "text"),
    ("/classify", {"text": "a", "threshold": 1}, "threshold"),
    ("/classify", {"text": "a", "threshold": float("nan")}, "threshold"),
    ("/tokenize", {"text": 1}, "text"),
    ("/detokenize", {"tokens": [1, 300]}, "tokens[1]"),
    ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ("/detokenize", {"tokens": [True]}, "tokens[0]"),
    ("/detokenize", {"tokens": [10**30]}, "tokens[0]"),
    ("/detokenize", {"tokens": [int("9" * 4300)]}, "tokens[0]"),
    # One error is enough: hundreds of thousands would take seconds on the event loop.
    ("/detokenize", {"tokens": [-1] * 300_000}, "tokens[0]"),
    ("/classify", {"text": ["a"] * 200_000}, "text"),
    ("/classify", {"text": [""] * 200_000}, "text[0]"),
    ("/tokenize", {str(i): 1 for i in range(80_000)}, "body"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [("/generate", body, field) for body, field in GENERATE] + OTHERS,
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else None,
)
def test_an_invalid_field_is_named(
    client: httpx.Client, path: str, body: dict[str, Any], field: str
) -> None:
    # httpx refuses NaN, which Python's own JSON writes.
    content = json.dumps(body, separators=(",", ":"))
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    found = problem(answer, 422)
    assert [error["field"] for error in found["errors"]] == [field]
    assert found["errors"][0]["message"]
    assert field in found["detail"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate", r'{"prompt": "\ud800"}', "prompt"),
        ("/generate", r'{"prompt": ["a", "b\udfff"]}', "prompt[1]"),
        ("/generate", r'{"prompt": "a", "stop": "\ud800"}', "stop"),
        ("/generate", r'{"prompt": "a", "model": "\ud800"}', "model"),
        ("/generate", r'{"prompt": "a", "\ud800": 1}', "body"),
        ("/instruct", r'{"instruction": "\ud800"}', "instruction"),
        ("/instruct", r'{"instruction": "a", "input": "\ud800"}', "input"),
        ("/classify", r'{"text": "\ud800"}', "text"),
        ("/tokenize", r'{"text": "\ud800"}', "text"),
    ],
)
def test_half_a_surrogate_pair_is_no_text(
    client: httpx.Client, path: str, body: str, field: str
) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert problem(answer, 422)["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"prompt": ', 400),
        (b"", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"\xff\xfe{}", 400),
        (b'{"prompt": "\xff"}', 400),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 100_000, 400),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
def test_a_body_that_is_no_json_object_is_refused(
    client: httpx.Client, body: bytes, status: int
) -> None:
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    problem(answer, status)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"prompt": ', "is not JSON: Expecting value at 11"),
        (b'{"prompt": "\xff"}', "is not UTF-8: wrong bytes at 12"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "a number of too many digits"),
        (b"[" * 100_000, "is nested too deeply"),
    ],
    ids=["syntax", "encoding", "digits", "depth"],
)
def test_what_is_wrong_with_a_body_that_is_no_json_is_said(
    client: httpx.Client, body: bytes, reason: str
) -> None:
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    found = problem(answer, 400)
    assert found["type"].endswith(":malformed-json")
    assert reason in found["detail"]


def test_too_many_texts_are_refused_before_they_are_encoded(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    monkeypatch.setattr(Tokenizer, "encode", lambda _, text: encoded.append(text) or [1])
    for path, body in (
        ("/generate", {"prompt": [""] * 65}),
        ("/generate", {"prompt": [""] * 9, "n": 8}),
        ("/classify", {"text": ["a"] * 65}),
    ):
        problem(client.post(path, json=body), 422)
    assert not encoded
    assert client.post("/tokenize", json={"text": "seen"}).is_success
    assert encoded == ["seen"]


@pytest.mark.parametrize("texts", [[""] * 2000, ["a" * 30_000]], ids=["many", "long"])
def test_what_takes_long_to_encode_is_encoded_off_the_event_loop(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    with serve(models=checkpoints, max_batch=4096, max_waiting=4096) as live:
        threads = set()

        def encode(_: Tokenizer, text: str) -> list[int]:
            threads.add(threading.current_thread())
            raise TextError("seen enough")

        monkeypatch.setattr(Tokenizer, "encode", encode)
        problem(live.client.post("/tokenize", json={"text": "short"}), 422)
        [loop] = threads
        threads.clear()
        problem(live.client.post("/generate", json={"prompt": texts}), 422)
        assert threads
        assert loop not in threads


def test_another_content_type_is_explained(client: httpx.Client) -> None:
    answer = client.post("/generate", content=b'{"prompt": "a"}')
    assert "Content-Type: application/json" in problem(answer, 422)["detail"]


@pytest.mark.parametrize("path", ["/generate", "/classify", "/instruct", "/tokenize"])
def test_an_unknown_model_is_not_found(client: httpx.Client, path: str) -> None:
    text = {"/generate": "prompt", "/instruct": "instruction"}.get(path, "text")
    answer = client.post(path, json={text: "a", "model": "nobody"})
    assert "'nobody'" in problem(answer, 404)["detail"]


def test_a_model_does_only_what_it_was_made_for(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "a", "model": "spam"})
    assert "does not answer /generate" in problem(answer, 404)["detail"]
    answer = client.post("/classify", json={"text": "a", "model": "spam"})
    assert answer.status_code == 200


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    problem(client.get("/nothing/here"), 404)
    answer = client.get("/generate")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(
    client: httpx.Client, stream: bool
) -> None:
    body = {"prompt": "a" * 100, "max_new_tokens": CONTEXT - 99, "stream": stream}
    found = problem(client.post("/generate", json=body), 400)
    assert found["prompt_tokens"] == 100
    assert found["max_new_tokens"] == CONTEXT - 99
    assert found["context_length"] == CONTEXT
    assert all(str(number) in found["detail"] for number in (100, CONTEXT - 99, CONTEXT))
    # With one token less it fits.
    found = problem(client.post("/generate", json={"prompt": "a" * CONTEXT}), 400)
    assert found["prompt_tokens"] == CONTEXT
    long = client.post("/instruct", json={"instruction": "a" * CONTEXT})
    problem(long, 400)


def test_a_body_too_large_is_refused_whether_it_says_so_or_not(checkpoints: Path) -> None:
    with serve(models=checkpoints, max_body_bytes=2000) as live:
        body = json.dumps({"prompt": "a" * 2000}).encode()
        headers = {"Content-Type": "application/json"}
        found = problem(live.client.post("/generate", content=body, headers=headers), 413)
        assert "2000" in found["detail"]

        def pieces() -> Any:  # without a Content-Length
            for start in range(0, len(body), 100):
                yield body[start : start + 100]

        problem(live.client.post("/generate", content=pieces(), headers=headers), 413)
        small = json.dumps({"prompt": "a", "max_new_tokens": 1}).encode()
        assert live.client.post("/generate", content=iter([small]), headers=headers).is_success


def test_white_space_that_the_tokenizer_cannot_cut_up_is_no_500(client: httpx.Client) -> None:
    answer = client.post("/tokenize", json={"text": " " * 1_000_000})
    assert answer.status_code in (200, 422)
    assert client.post("/tokenize", json={"text": " " * 500_000}).status_code == 200


def test_an_unexpected_error_shows_nothing_of_the_inside(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(models=checkpoints) as live:

        def fail(*_: Any) -> None:
            raise RuntimeError("secret path")

        monkeypatch.setattr(live.service, "any_model", fail)
        answer = live.client.post("/tokenize", json={"text": "a"})
        found = problem(answer, 500)
        assert "secret" not in answer.text
        assert found["title"] == "Internal Server Error"
        # The service goes on.
        assert live.client.get("/readyz").status_code == 200
