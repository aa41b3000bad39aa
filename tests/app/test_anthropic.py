"""/v1/messages: what Anthropic's clients send is done, as they expect, or refused by name."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from app.api import responses
from app.api.prompts import ChatPrompt, _without_thoughts
from app.envelopes import AnthropicErrorType
from app.errors import Problem
from model import prompts
from model.engine.request import Failed
from model.prompts import Alpaca, JinjaTemplate, Message, Qwen3, instruction_prompt

from .conftest import CONTEXT, Live, events, serve
from .test_leaving import send
from .with_keys import USER

ASK = {"role": "user", "content": "Say it."}
BODY: dict[str, Any] = {"model": "instruct", "max_tokens": 20, "messages": [ASK], "temperature": 0}
COUNT: dict[str, Any] = {"model": "instruct", "messages": [ASK]}
PATHS = {"/v1/messages": BODY, "/v1/messages/count_tokens": COUNT}


def create(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/messages", json={**BODY, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def count(client: httpx.Client, **more: Any) -> int:
    answer = client.post("/v1/messages/count_tokens", json={**COUNT, **more})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"input_tokens"}
    return int(answer.json()["input_tokens"])


def length(client: httpx.Client, text: str) -> int:
    """How many tokens a text has."""
    return len(client.post("/tokenize", json={"text": text}).json()["tokens"])


def stream(client: httpx.Client, **more: Any) -> list[tuple[str, Any]]:
    with client.stream("POST", "/v1/messages", json={**BODY, **more, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events(answer)


# ---- answers ----


def test_a_message_is_what_instruct_answers(client: httpx.Client) -> None:
    body = {"instruction": "Say it.", "max_new_tokens": 20, "temperature": 0}
    own = client.post("/instruct", json=body).json()
    answer = create(client)
    assert answer["id"].startswith("msg_")
    assert answer["type"] == "message"
    assert answer["role"] == "assistant"
    assert answer["model"] == "instruct"
    assert answer["content"] == [{"type": "text", "text": own["response"], "citations": None}]
    reasons = {"length": "max_tokens", "eos": "end_turn"}
    assert answer["stop_reason"] == reasons[own["finish_reason"]]
    assert answer["stop_sequence"] is None
    usage = answer["usage"]
    assert usage["output_tokens"] == own["usage"]["completion_tokens"]
    assert usage["cache_read_input_tokens"] > 0  # of /instruct, a moment ago
    assert usage["cache_creation_input_tokens"] == 0
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert prompt == own["usage"]["prompt_tokens"] == count(client)
    assert create(client)["id"] != answer["id"]


def test_a_conversation_is_read_whole(client: httpx.Client) -> None:
    def block(text: str) -> dict[str, str]:
        return {"type": "text", "text": text}

    conversation = {
        "system": [block("Be brief."), block("Be kind.")],
        "messages": [
            {"role": "user", "content": "Hello!"},
            {"role": "user", "content": [block("You"), block("there!")]},
            {"role": "assistant", "content": [block("Yes.")]},
            {"role": "system", "content": "Be quick."},
            {"role": "user", "content": [block("Who"), block("is it?")]},
        ],
    }
    prompt = instruction_prompt(
        "Be brief.\nBe kind.\n\nBe quick.\n\nWho\nis it?",
        "User: Hello!\nYou\nthere!\nAssistant: Yes.",
    )
    assert count(client, **conversation) == length(client, prompt)
    usage = create(client, **conversation)["usage"]
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert read == length(client, prompt)
    assert count(client, system="Be brief.") == length(
        client, instruction_prompt("Be brief.\n\nSay it.")
    )
    assert count(client, system="") == count(client)


def test_an_answer_goes_on_from_its_beginning(live: Live) -> None:
    messages, beginning = [Message("user", "Say it.")], "The old man"
    model = live.service.model("instruct", None)
    tokenizer = model.base.tokenizer
    [ids] = asyncio.run(ChatPrompt(messages, "messages", beginning).encode(model))
    before = prompts.encode(Alpaca().render(messages), tokenizer).ids
    assert ids == before + tokenizer.encode(beginning)
    begun = [ASK, {"role": "assistant", "content": beginning}]
    assert count(live.client, messages=begun) == len(ids)
    # Nothing said yet is no beginning.
    assert count(live.client, messages=[ASK, {"role": "assistant", "content": ""}]) == len(before)


def test_the_stop_sequence_that_ended_a_text_is_named(client: httpx.Client) -> None:
    text = create(client)["content"][0]["text"]
    stop = text[5:7]
    answer = create(client, stop_sequences=["never said", stop])
    assert answer["stop_reason"] == "stop_sequence"
    assert answer["stop_sequence"] == stop
    assert answer["content"][0]["text"] == text[: text.find(stop)]
    last = stream(client, stop_sequences=["never said", stop])[-2][1]
    assert last["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": stop}


def test_a_text_of_a_form_ends_its_turn(client: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["glad", "sad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    answer = create(client, output_config=config, max_tokens=100)
    assert answer["stop_reason"] == "end_turn"
    assert answer["stop_sequence"] is None
    assert json.loads(answer["content"][0]["text"])["mood"] in ("glad", "sad")
    wrong = {"format": {"type": "json_schema", "schema": {"type": "odd"}}}
    refused = client.post("/v1/messages", json={**BODY, "output_config": wrong})
    assert "output_config.format: " in error(refused, 422)["message"]


def test_draws_are_made_as_asked(client: httpx.Client) -> None:
    """There is no seed: what can be held is what a draw may not do."""
    greedy = create(client)["content"]
    assert create(client, temperature=5, top_k=1)["content"] == greedy
    assert create(client, temperature=5, top_p=1e-6)["content"] == greedy
    wild = [create(client, temperature=5, top_k=0)["content"] for _ in range(3)]
    assert any(content != greedy for content in wild)


# ---- streams ----


def test_a_stream_has_the_events_of_its_api(client: httpx.Client) -> None:
    whole = create(client)
    found = stream(client)
    names = [name for name, _ in found]
    pieces = names.count("content_block_delta")
    assert pieces > 5
    assert names == [
        *("message_start", "content_block_start", "ping"),
        *["content_block_delta"] * pieces,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert all(data["type"] == name for name, data in found)
    data = [data for _, data in found]
    message = data[0]["message"]
    assert message["id"].startswith("msg_")
    assert message["content"] == []
    assert message["stop_reason"] is None
    prompt = whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"]
    assert message["usage"]["input_tokens"] == prompt
    assert set(message) == set(whole)
    assert data[1] == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    deltas = [each["delta"] for each in data if each["type"] == "content_block_delta"]
    assert {delta["type"] for delta in deltas} == {"text_delta"}
    text = "".join(delta["text"] for delta in deltas)
    assert [text] == [block["text"] for block in whole["content"]]
    assert data[-2]["delta"] == {name: whole[name] for name in ("stop_reason", "stop_sequence")}
    usage = data[-2]["usage"]
    assert usage["output_tokens"] == whole["usage"]["output_tokens"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt


def test_a_silent_stream_pings(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE_SECONDS", 0.01)
    [engine_client] = live.service.engine_clients()
    go = threading.Event()
    engine_client.engine._errands.put(lambda: go.wait(60))  # the prompt waits
    lines = []
    try:
        with live.client.stream("POST", "/v1/messages", json={**BODY, "stream": True}) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                if lines.count("event: ping") == 4:
                    go.set()
    finally:
        go.set()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[:6] == ["message_start", "content_block_start", *["ping"] * 4]
    assert names[-1] == "message_stop"
    assert not any(line.startswith(":") for line in lines)


def test_an_error_in_a_stream_is_an_event(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE_SECONDS", 0.01)
    [engine_client] = live.service.engine_clients()
    go = threading.Event()
    engine_client.engine._errands.put(lambda: go.wait(60))
    try:
        with live.client.stream("POST", "/v1/messages", json={**BODY, "stream": True}) as answer:
            request_id = answer.headers["x-request-id"]
            lines = answer.iter_lines()
            assert next(lines) == "event: message_start"
            failed = Failed("deadline", "its time is over")
            engine_client._loop.call_soon_threadsafe(engine_client.fail_all, failed)
            left = list(lines)
    finally:
        go.set()
    assert left[-3] == "event: error"
    assert json.loads(left[-2].removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "timeout_error", "message": "its time is over"},
        "request_id": request_id,
    }


# ---- what is not done ----


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The members of an answer's error, after a look at what every error has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    found: dict[str, Any] = body["error"]
    assert set(found) == {"type", "message"}
    assert found["type"] in get_args(AnthropicErrorType)
    assert found["message"]
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"name": "f", "input_schema": {"type": "object"}}]),
        ("tool_choice", {"type": "auto"}),
        ("thinking", {"type": "enabled", "budget_tokens": 1024}),
        ("speed", "fast"),
        ("diagnostics", {"previous_message_id": None}),
        ("container", "a"),
        ("context_management", {"edits": []}),
        ("inference_geo", "eu"),
        ("mcp_servers", [{"type": "url"}]),
        ("invented", None),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: httpx.Client, path: str, name: str, value: Any
) -> None:
    # What else is wrong is not what has to be told.
    body = {**PATHS[path], name: value, "system": 1}
    found = error(client.post(path, json=body), 400)
    assert found["type"] == "invalid_request_error"
    assert found["message"].startswith(f"{name}: ")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "kind",
    ["image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "x" * 500],
)
def test_blocks_that_are_no_text_are_refused(client: httpx.Client, path: str, kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind}]}]
    found = error(client.post(path, json={**PATHS[path], "messages": messages}), 400)
    assert found["message"].startswith(f"messages[0].content[1]: is of the type '{kind[:50]}'")
    answer = client.post(path, json={**PATHS[path], "system": [{"type": kind}]})
    assert error(answer, 400)["message"].startswith("system[0]: is of the type")


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"model": 1}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "a"}, "messages"),
    ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "system", "content": "a"}]}, "messages"),
    ({"messages": [ASK, {"role": "system", "content": "a"}]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages"),
    ({"messages": [{"role": "user", "content": []}]}, "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
    ({"messages": [ASK, {"role": "assistant", "content": "a "}]}, "messages"),
    ({"system": 1}, "system"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"stop_sequences": ["a"] * 65}, "stop_sequences"),
    ({"temperature": -1}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 0}, "top_p"),
    ({"metadata": {"user_id": "a" * 257}}, "metadata.user_id"),
    ({"service_tier": "odd"}, "service_tier"),
    ({"stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("change", "field"), INVALID, ids=lambda value: json.dumps(value)[:40])
def test_an_invalid_field_is_named(
    client: httpx.Client, change: dict[str, Any], field: str
) -> None:
    found = error(client.post("/v1/messages", json={**BODY, **change}), 422)
    assert found["type"] == "invalid_request_error"
    assert found["message"].startswith(f"{field}: ")


@pytest.mark.parametrize("name", ["model", "messages", "max_tokens"])
def test_a_missing_field_is_named(client: httpx.Client, name: str) -> None:
    body = {key: value for key, value in BODY.items() if key != name}
    assert error(client.post("/v1/messages", json=body), 422)["message"].startswith(f"{name}: ")


def test_what_asks_for_nothing_is_taken_and_named(client: httpx.Client) -> None:
    cache = {"type": "ephemeral", "ttl": "1h"}
    block = {"type": "text", "text": "a", "cache_control": cache}
    more = {
        "cache_control": cache,
        "service_tier": "auto",
        "system": [block, block],
        "messages": [{"role": "user", "content": [block]}, {"role": "user", "content": "b"}],
    }
    answer = client.post("/v1/messages", json={**BODY, **more})
    assert answer.status_code == 200
    names = ["messages.content.cache_control", "system.cache_control", "cache_control"]
    assert answer.headers["x-ignored-fields"].split(", ") == [*names, "service_tier"]
    del more["service_tier"]
    answer = client.post("/v1/messages/count_tokens", json={**COUNT, **more})
    assert answer.headers["x-ignored-fields"].split(", ") == names
    # Also where the answer is a stream, or an error.
    body = {**BODY, "service_tier": "standard_only"}
    with client.stream("POST", "/v1/messages", json={**body, "stream": True}) as streamed:
        assert streamed.headers["x-ignored-fields"] == "service_tier"
    answer = client.post("/v1/messages", json={**body, "max_tokens": CONTEXT})
    assert answer.status_code == 400
    assert answer.headers["x-ignored-fields"] == "service_tier"
    assert "x-ignored-fields" not in client.post("/v1/messages", json=BODY).headers


@pytest.mark.parametrize("path", PATHS)
def test_null_is_as_good_as_nothing(client: httpx.Client, path: str) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
    described = document["components"]["schemas"][schema]
    nulls = dict.fromkeys(set(described["properties"]) - set(described["required"]))
    answer = client.post(path, json={**nulls, **PATHS[path]})
    assert answer.status_code == 200, answer.text
    assert "x-ignored-fields" not in answer.headers
    off = {
        "speed": "standard",
        "tools": [],
        "tool_choice": {"type": "none"},
        "thinking": {"type": "disabled"},
    }
    assert client.post(path, json={**PATHS[path], **off}).status_code == 200


def test_who_asks_is_in_the_log(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    def users() -> list[str | None]:
        return [vars(each).get("user") for each in caplog.records if each.name == "app.access"]

    with caplog.at_level(logging.INFO, "app.access"):
        create(live.client, metadata={"user_id": "somebody"})
        live.wait(lambda: "somebody" in users())  # the line comes after the answer


def test_no_thoughts_are_promised_only_where_they_can_be_kept_from() -> None:
    assert _without_thoughts(Qwen3(), "thinking") == Qwen3(thinking=False)
    assert _without_thoughts(Alpaca(), "thinking") == Alpaca()
    plain = JinjaTemplate.of("{{ messages[0].content }}", [])
    assert _without_thoughts(plain, "thinking") == plain
    thinks = JinjaTemplate.of("{% if enable_thinking %}<think>{% endif %}", [])
    with pytest.raises(Problem, match="thinking: asks for no thoughts") as raised:
        _without_thoughts(thinks, "thinking")
    assert raised.value.status_code == 422


# ---- errors of all kinds ----


def test_models_paths_methods_and_bodies(client: httpx.Client) -> None:
    found = error(client.post("/v1/messages", json={**BODY, "model": "nobody"}), 404)
    assert found["type"] == "not_found_error"
    assert "no model 'nobody'" in found["message"]
    found = error(client.post("/v1/messages/count_tokens", json={**COUNT, "model": "base"}), 404)
    assert "'base' was not trained to follow instructions" in found["message"]
    assert error(client.get("/v1/messages/batches"), 404)["type"] == "not_found_error"
    assert "answers POST" in error(client.get("/v1/messages"), 405)["message"]
    headers = {"Content-Type": "application/json"}
    for content, status in ((b'{"model": ', 400), (b"[]", 422), (b"\xff", 400), (b"", 422)):
        answer = client.post("/v1/messages", content=content, headers=headers)
        assert error(answer, status)["type"] == "invalid_request_error"
    packed = client.post("/v1/messages", content=b"{}", headers={"Content-Encoding": "gzip"})
    error(packed, 415)
    # Beside it, OpenAI's errors are OpenAI's.
    assert set(client.get("/v1/messagesx").json()["error"]) == {"message", "type", "param", "code"}


def test_what_does_not_fit_the_context_is_refused_with_the_numbers(client: httpx.Client) -> None:
    found = error(client.post("/v1/messages", json={**BODY, "max_tokens": CONTEXT}), 400)
    assert found["type"] == "invalid_request_error"
    assert f"max_tokens is {CONTEXT}: together" in found["message"]
    assert count(client, messages=[{"role": "user", "content": "a" * CONTEXT}]) > CONTEXT


def test_keys_and_sizes(guarded: Live) -> None:
    client = guarded.client
    for path, body in PATHS.items():
        assert error(client.post(path, json=body), 401)["type"] == "authentication_error"
        wrong = client.post(path, json=body, headers={"x-api-key": "wrong"})
        assert error(wrong, 401)["type"] == "authentication_error"
        headers = {"x-api-key": USER, "anthropic-version": "2023-06-01", "anthropic-beta": "a"}
        assert client.post(path, json=body, headers=headers).status_code == 200
        assert client.post(path, params={"beta": "true"}, json=body, headers=headers).is_success
        large = client.post(path, content=b" " * (1 << 21), headers=headers)
        assert error(large, 413)["type"] == "request_too_large"


def test_a_page_of_elsewhere_may_not(named: Live) -> None:
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = named.client.post("/v1/messages", json=BODY, headers=headers)
    assert error(answer, 403)["type"] == "permission_error"
    good = named.client.post("/v1/messages", json=BODY, headers={"Origin": "https://good.example"})
    exposed = good.headers["access-control-expose-headers"].split(", ")
    assert {"X-Ignored-Fields", "Request-ID"} <= set(exposed)


@pytest.fixture
def small(checkpoints: Path) -> Iterator[Live]:
    """A service with one slot and one place in the queue."""
    with serve(models=checkpoints, slots=1, max_waiting=1, max_batch=1) as live:
        yield live


def test_a_full_queue_and_a_service_that_shuts_down(small: Live) -> None:
    long = {"prompt": "a", "max_new_tokens": CONTEXT - 1, "ignore_eos": True}
    connections = [send(small, "/generate", long)]
    small.wait(lambda: small.running() == 1)
    connections.append(send(small, "/generate", long))
    small.wait(lambda: small.waiting() == 1)
    answer = small.client.post("/v1/messages", json=BODY)
    assert error(answer, 429)["type"] == "rate_limit_error"
    assert float(answer.headers["retry-after"]) <= 5
    for connection in connections:
        connection.close()
    small.wait(lambda: small.running() == 0)
    small.service.drain()
    answer = small.client.post("/v1/messages", json=BODY)
    assert error(answer, 503)["type"] == "overloaded_error"
    assert answer.headers["retry-after"]


def test_a_deadline_and_an_unexpected_error(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(models=checkpoints, request_timeout=0.3) as live:
        [engine_client] = live.service.engine_clients()
        go = threading.Event()
        engine_client.engine._errands.put(lambda: go.wait(60))
        try:
            answer = live.client.post("/v1/messages", json=BODY)
        finally:
            go.set()
        assert error(answer, 504)["type"] == "timeout_error"
        assert answer.headers["x-should-retry"] == "false"

        def fail(*_: Any) -> None:
            raise RuntimeError("secret path")

        monkeypatch.setattr(live.service, "model", fail)
        answer = live.client.post("/v1/messages", json=BODY)
        found = error(answer, 500)
        assert found["type"] == "api_error"
        assert "secret" not in found["message"]
