"""Streams: the same text as without, in whole characters, and an end that can be relied on."""

import json
import threading
from typing import Any

import httpx
import pytest

from app.api import responses
from app.api.responses import encode_event
from model.engine.request import Failed

from .conftest import Live, events

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""All that `str.splitlines` splits at."""


def stream(client: httpx.Client, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events(answer)


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_same_text_as_the_whole_answer(client: httpx.Client, seed: int) -> None:
    # Random weights draw many bytes that are parts of characters, so borders are met.
    body = {"prompt": "The girl", "max_new_tokens": 60, "seed": seed, "ignore_eos": True}
    whole = client.post("/generate", json=body).json()
    found = stream(client, "/generate", body)
    assert found[-1] == ("message", "[DONE]")
    assert {name for name, _ in found} == {"message"}
    pieces = [data for _, data in found[:-1]]
    assert "".join(piece["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert len(pieces) > 10
    assert all(piece["index"] == 0 for piece in pieces)
    assert not any("finish_reason" in piece for piece in pieces[:-1])
    assert pieces[-1]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
    assert pieces[-1]["usage"] == whole["usage"]


def test_a_character_of_several_tokens_comes_whole(client: httpx.Client) -> None:
    body = {"prompt": "a", "max_new_tokens": 300, "seed": 1, "ignore_eos": True}
    texts = [data["text"] for _, data in stream(client, "/generate", body)[:-1]]
    multibyte = [text for text in texts if any(ord(c) > 127 and c != "\ufffd" for c in text)]
    assert multibyte, "the seed draws no character of several tokens; take another"


def test_each_choice_of_a_stream_has_its_own_end(client: httpx.Client) -> None:
    body = {
        "prompt": ["The old man", "the sea"],
        "n": 2,
        "seed": 3,
        "max_new_tokens": 12,
        "ignore_eos": True,
    }
    whole = client.post("/generate", json=body).json()
    pieces = [data for _, data in stream(client, "/generate", body)[:-1]]
    for choice in whole["choices"]:
        mine = [piece for piece in pieces if piece["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        assert [p.get("finish_reason") for p in mine][-1] == choice["finish_reason"]
        assert sum("finish_reason" in piece for piece in mine) == 1
    assert sum("usage" in piece for piece in pieces) == 1
    assert pieces[-1]["usage"] == whole["usage"]


def test_logprobs_come_with_the_stream(client: httpx.Client) -> None:
    body = {"prompt": "a", "max_new_tokens": 9, "seed": 1, "logprobs": 1, "ignore_eos": True}
    whole = client.post("/generate", json=body).json()["choices"][0]["logprobs"]
    pieces = [data for _, data in stream(client, "/generate", body)[:-1]]
    streamed = [entry for piece in pieces for entry in piece.get("logprobs", [])]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in whole]


def test_instruct_streams_too(client: httpx.Client) -> None:
    body = {"instruction": "Tell me.", "max_new_tokens": 20, "ignore_eos": True}
    whole = client.post("/instruct", json=body).json()
    found = stream(client, "/instruct", body)
    assert "".join(data["text"] for _, data in found[:-1]) == whole["response"]
    assert found[-2][1]["finish_reason"] == whole["finish_reason"]
    assert found[-1][1] == "[DONE]"


def test_an_error_after_the_first_byte_is_an_event(live: Live) -> None:
    body = {"prompt": "a", "max_new_tokens": 3000, "ignore_eos": True, "stream": True}
    with live.client.stream("POST", "/generate", json=body) as answer:
        assert answer.status_code == 200
        live.wait(lambda: live.running() == 1)
        [engine_client] = live.service.engine_clients()
        loop = engine_client._loop
        loop.call_soon_threadsafe(engine_client.fail_all, Failed("deadline", "its time is over"))
        found = events(answer)
    name, data = found[-1]
    assert name == "error"
    assert data["status"] == 504
    assert data["detail"] == "its time is over"
    assert data["request_id"] == answer.headers["x-request-id"]
    assert ("message", "[DONE]") not in found
    live.wait(lambda: live.running() == 0)


def test_an_event_is_one_line_however_lines_are_split() -> None:
    text = f"é{BREAKS}€"
    assert len(text.splitlines()) == len(BREAKS) + 1
    event = encode_event({"text": text, BREAKS: [text]}).decode()
    assert event.endswith("\n\n")
    assert len(event.splitlines()) == 2
    assert "é" in event
    assert json.loads(event.removeprefix("data: ")) == {"text": text, BREAKS: [text]}


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_the_lines_of_a_stream_are_its_events(client: httpx.Client, path: str) -> None:
    """With httpx's own reader, which splits as `str.splitlines` does."""
    # A line separator is three bytes, each a token of this vocabulary.
    choices = {"type": "choice", "choices": [f"a{BREAKS}b"]}
    body = {"model": "base", "prompt": "a", "max_tokens": 60, "stream": True}
    if path == "/generate":
        body = {"prompt": "a", "max_new_tokens": 60, "stream": True}
    body["response_format"] = choices
    text = ""
    with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line and line != "data: [DONE]":
                assert line.startswith("data: "), line
                data = json.loads(line.removeprefix("data: "))
                text += data["text"] if path == "/generate" else data["choices"][0]["text"]
    assert text == f"a{BREAKS}b"


def test_a_silent_stream_says_that_it_is_alive(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE_SECONDS", 0.01)
    [engine_client] = live.service.engine_clients()
    body = {"prompt": "a", "max_new_tokens": 5, "ignore_eos": True, "seed": 1}
    whole = live.client.post("/generate", json=body).json()["choices"][0]["text"]
    go = threading.Event()
    engine_client.engine._errands.put(lambda: go.wait(60))  # the prompt waits
    lines = []
    try:
        with live.client.stream("POST", "/generate", json={**body, "stream": True}) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                lines.append(line)
                if lines.count(": keep-alive") == 3:
                    go.set()
    finally:
        go.set()
    assert lines[:6] == [": keep-alive", ""] * 3
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    assert "".join(json.loads(each)["text"] for each in data[:-1]) == whole


def test_an_error_of_a_prompt_that_waited_long_is_an_event(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE_SECONDS", 0.01)
    [engine_client] = live.service.engine_clients()
    go = threading.Event()
    engine_client.engine._errands.put(lambda: go.wait(60))
    try:
        body = {"prompt": "a", "stream": True}
        with live.client.stream("POST", "/generate", json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": keep-alive"
            failed = Failed("deadline", "its time is over")
            engine_client._loop.call_soon_threadsafe(engine_client.fail_all, failed)
            left = list(lines)
    finally:
        go.set()
    assert left[-3] == "event: error"
    assert json.loads(left[-2].removeprefix("data: "))["detail"] == "its time is over"
