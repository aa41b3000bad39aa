"""/api: what Ollama's clients send is done, as they expect, or refused by name."""

import json
import math
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api import responses
from model.engine.request import Failed
from model.prompts import instruction_prompt

from .conftest import CONTEXT, Live, serve
from .test_leaving import send
from .test_streaming import BREAKS
from .with_keys import USER, bearer

ASK = {"role": "user", "content": "Say it."}
GREEDY = {"temperature": 0, "num_predict": 20}
SAMPLED = {"temperature": 0.9, "top_k": 0, "top_p": 0.95, "seed": 3}
CHAT: dict[str, Any] = {"model": "instruct", "messages": [ASK], "options": GREEDY}
GENERATE: dict[str, Any] = {"model": "base", "prompt": "The sea", "options": GREEDY}
EMBED: dict[str, Any] = {"model": "base", "input": ["The old man", "The sea"]}
PATHS = {"/api/chat": CHAT, "/api/generate": GENERATE, "/api/embed": EMBED}
READ = ("/api/version", "/api/tags", "/api/ps")


def ask(client: httpx.Client, path: str, **more: Any) -> dict[str, Any]:
    """The answer in one."""
    answer = client.post(path, json={**PATHS[path], "stream": False, **more})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def stream(client: httpx.Client, path: str, **more: Any) -> list[dict[str, Any]]:
    """The objects of a stream, with httpx' own reader, which splits as `str.splitlines` does."""
    with client.stream("POST", path, json={**PATHS[path], **more}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.iter_lines()]


def said(found: dict[str, Any]) -> str:
    text: str = found["message"]["content"] if "message" in found else found["response"]
    return text


def length(client: httpx.Client, text: str) -> int:
    """How many tokens a text has."""
    return len(client.post("/tokenize", json={"text": text}).json()["tokens"])


# ---- chats and texts ----


def test_a_chat_is_what_instruct_answers(client: httpx.Client) -> None:
    own = client.post(
        "/instruct", json={"instruction": "Say it.", "max_new_tokens": 20, "temperature": 0}
    ).json()
    found = ask(client, "/api/chat")
    assert found["model"] == "instruct"
    assert found["message"] == {"role": "assistant", "content": own["response"]}
    assert found["done"] is True
    assert found["done_reason"] == {"length": "length", "eos": "stop"}[own["finish_reason"]]
    assert datetime.fromisoformat(found["created_at"]).year > 2000
    assert found["prompt_eval_count"] == own["usage"]["prompt_tokens"]
    assert found["eval_count"] == own["usage"]["completion_tokens"]
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    assert all(isinstance(found[name], int) and found[name] >= 0 for name in parts)
    assert found["eval_duration"] > 1000  # nanoseconds
    assert abs(found["total_duration"] - sum(found[name] for name in parts)) <= 2
    assert found["total_duration"] < 100e9


def test_a_text_is_continued_as_generate_does(client: httpx.Client) -> None:
    settings = {**SAMPLED, "min_p": 0.01, "presence_penalty": 0.5, "frequency_penalty": 0.2}
    options = {**settings, "repeat_penalty": 1.2, "num_predict": 30, "stop": ["q"]}
    found = ask(client, "/api/generate", options=options)
    settings |= {"repetition_penalty": 1.2, "max_new_tokens": 30, "stop": "q", "top_k": None}
    own = client.post("/generate", json={"prompt": "The sea", **settings}).json()
    assert found["response"] == own["choices"][0]["text"]
    assert found["prompt_eval_count"] == length(client, "The sea")
    again = ask(client, "/api/generate", options={**options, "stop": "q"})
    assert again["response"] == found["response"]


def test_defaults_are_ollamas(client: httpx.Client) -> None:
    told = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 5, "num_predict": 30}
    few = {"seed": 5, "num_predict": 30}
    nulls = {**few, "temperature": None, "top_k": None, "top_p": None}
    found = [ask(client, "/api/generate", options=given) for given in (told, few, nulls)]
    assert len({said(each) for each in found}) == 1
    wide = ask(client, "/api/generate", options={**few, "top_k": 0, "top_p": 1})
    assert said(wide) != said(found[0])
    drawn = {said(ask(client, "/api/generate", options={**few, "seed": -1})) for _ in range(3)}
    assert len(drawn) > 1


def test_without_a_limit_a_text_goes_on_to_the_end_of_the_context(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "a" * (CONTEXT - 200)}]
    for limit in ({}, {"num_predict": -1}, {"num_predict": -2}):
        found = ask(client, "/api/chat", messages=messages, options={"temperature": 0, **limit})
        total = found["prompt_eval_count"] + found["eval_count"]
        assert found["done_reason"] == "stop" or total == CONTEXT


def test_a_model_that_follows_instructions_answers_a_text(client: httpx.Client) -> None:
    chat = ask(client, "/api/chat")
    found = ask(client, "/api/generate", model="instruct", prompt="Say it.")
    assert found["response"] == chat["message"]["content"]
    assert found["prompt_eval_count"] == chat["prompt_eval_count"]
    with_system = ask(client, "/api/generate", model="instruct", prompt="Say it.", system="Now!")
    assert with_system["prompt_eval_count"] == length(client, instruction_prompt("Now!\n\nSay it."))
    answer = client.post("/api/generate", json={**GENERATE, "model": "instruct", "raw": True})
    assert "does not answer /generate" in error(answer, 404)
    raw = ask(client, "/api/generate", raw=True)
    assert raw["response"] == ask(client, "/api/generate")["response"]
    for more, why in (({}, "base does not follow"), ({"raw": True}, "`raw` is true")):
        answer = client.post("/api/generate", json={**GENERATE, "system": "Now!", **more})
        assert error(answer, 422).startswith("system: ")
        assert why in error(answer, 422)


def test_a_conversation_is_read_whole_and_gone_on_with(client: httpx.Client) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Who is it?"},
    ]
    prompt = instruction_prompt("Be brief.\n\nWho is it?", "User: Hello!\nAssistant: Yes.")
    read = length(client, prompt)
    assert ask(client, "/api/chat", messages=turns)["prompt_eval_count"] == read
    begun = [*turns, {"role": "assistant", "content": "The old man"}]
    found = ask(client, "/api/chat", messages=begun)
    assert found["prompt_eval_count"] == read + length(client, "The old man")


@pytest.mark.parametrize("name", ["instruct", "instruct:latest"])
def test_a_model_has_a_tag_or_none(client: httpx.Client, name: str) -> None:
    assert ask(client, "/api/chat", model=name)["model"] == "instruct"
    assert client.post("/api/show", json={"model": name}).status_code == 200
    assert client.post("/api/embed", json={**EMBED, "model": name}).status_code == 200
    answer = client.post("/api/chat", json={**CHAT, "model": f"{name}:other"})
    assert f"no model '{name}:other'" in error(answer, 404)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"model": "instruct", "keep_alive": "5m"}),
        ("/api/chat", {"model": "instruct", "messages": []}),
        ("/api/generate", {"model": "base", "keep_alive": 0}),
        ("/api/generate", {"model": "base:latest", "prompt": ""}),
    ],
)
def test_nothing_to_answer_asks_whether_the_model_is_loaded(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 200
    found = answer.json()
    assert found["done"] is True
    assert found["done_reason"] == "load"
    assert said(found) == ""
    assert "nobody" in error(client.post(path, json={**body, "model": "nobody"}), 404)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_text_of_a_form(client: httpx.Client, path: str) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["glad", "sad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    options = {"temperature": 0, "num_predict": 100}
    found = ask(client, path, format=schema, options=options)
    assert json.loads(said(found))["mood"] in ("glad", "sad")
    assert found["done_reason"] == "stop"
    assert said(ask(client, path, format="json", options=options)).startswith("{")
    assert said(ask(client, path, format="")) == said(ask(client, path))
    wrong = client.post(path, json={**PATHS[path], "format": {"type": "odd"}})
    assert error(wrong, 422).startswith("format: ")


# ---- streams ----


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_stream_is_the_default_and_the_same_text(client: httpx.Client, path: str) -> None:
    whole = ask(client, path)
    *pieces, last = stream(client, path)
    assert len(pieces) > 5
    assert "".join(map(said, pieces)) == said(whole)
    assert all(piece["done"] is False for piece in pieces)
    assert set(pieces[0]) == set(whole) & {"model", "created_at", "message", "response", "done"}
    assert said(last) == ""
    assert set(last) == set(whole)
    for name in ("model", "done", "done_reason", "prompt_eval_count", "eval_count"):
        assert last[name] == whole[name]
    assert stream(client, path, stream=None)[-1]["done"] is True


def test_an_object_is_one_line_however_lines_are_split(client: httpx.Client) -> None:
    # A line separator is three bytes, each a token of this vocabulary.
    text = f"a{BREAKS}b"
    schema = {"enum": [text]}
    objects = stream(client, "/api/generate", format=schema, options={"num_predict": 200})
    assert json.loads("".join(map(said, objects))) == text


def test_a_silent_stream_says_that_it_is_alive(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE_SECONDS", 0.01)
    [engine_client] = live.service.engine_clients()
    whole = ask(live.client, "/api/chat")
    go = threading.Event()
    engine_client.engine._errands.put(lambda: go.wait(60))  # the prompt waits
    objects = []
    try:
        with live.client.stream("POST", "/api/chat", json=CHAT) as answer:
            for line in answer.iter_lines():
                objects.append(json.loads(line))
                if len(objects) == 3:
                    go.set()
    finally:
        go.set()
    assert [said(each) for each in objects[:3]] == [""] * 3
    assert not any(each["done"] for each in objects[:-1])
    assert "".join(map(said, objects)) == said(whole)


def test_an_error_in_a_stream_is_a_line(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE_SECONDS", 0.01)
    [engine_client] = live.service.engine_clients()
    go = threading.Event()
    engine_client.engine._errands.put(lambda: go.wait(60))
    try:
        with live.client.stream("POST", "/api/chat", json=CHAT) as answer:
            lines = answer.iter_lines()
            assert json.loads(next(lines))["done"] is False
            failed = Failed("deadline", "its time is over")
            engine_client._loop.call_soon_threadsafe(engine_client.fail_all, failed)
            left = list(lines)
    finally:
        go.set()
    assert json.loads(left[-1]) == {"error": "its time is over"}


# ---- vectors ----


def test_vectors_are_those_of_openais_api(client: httpx.Client) -> None:
    own = client.post("/v1/embeddings", json=EMBED).json()
    found = client.post("/api/embed", json=EMBED).json()
    assert found["model"] == "base"
    assert found["embeddings"] == [each["embedding"] for each in own["data"]]
    assert all(math.isclose(math.hypot(*each), 1, rel_tol=1e-5) for each in found["embeddings"])
    assert found["prompt_eval_count"] == own["usage"]["prompt_tokens"]
    assert found["total_duration"] >= found["load_duration"] >= 0
    one = client.post("/api/embed", json={**EMBED, "input": "The sea"}).json()
    assert one["embeddings"] == found["embeddings"][1:]


def test_a_text_is_cut_only_if_that_is_asked_for(client: httpx.Client) -> None:
    body = {"model": "base", "input": ["a", "b" * (CONTEXT + 5)]}
    for truncate in ({}, {"truncate": False}, {"truncate": None}):
        answer = client.post("/api/embed", json={**body, **truncate})
        assert f"input 1 has {CONTEXT + 5} tokens" in error(answer, 400)
    cut = client.post("/api/embed", json={**body, "truncate": True}).json()
    whole = client.post("/api/embed", json={"model": "base", "input": "b" * CONTEXT}).json()
    # In another company, the last bits of fp32 are others.
    assert cut["embeddings"][1] == pytest.approx(whole["embeddings"][0], abs=1e-4)
    assert cut["prompt_eval_count"] == CONTEXT + 1


# ---- what is served ----


def test_models_are_listed(client: httpx.Client, checkpoints: Path) -> None:
    cards = {card["name"]: card for card in client.get("/models").json()["models"]}
    listed = {model["name"]: model for model in client.get("/api/tags").json()["models"]}
    assert set(listed) == {"base:latest", "spam:latest", "instruct:latest"}
    running = {model["name"]: model for model in client.get("/api/ps").json()["models"]}
    assert set(running) == set(listed)

    def bytes_of(name: str) -> int:
        return sum(file.stat().st_size for file in (checkpoints / name).iterdir())

    for name, model in listed.items():
        plain = name.removesuffix(":latest")
        assert model["model"] == name
        assert model["digest"] == cards[plain]["checkpoint"]
        assert model["size"] == bytes_of("base") + (0 if plain == "base" else bytes_of(plain))
        assert datetime.fromisoformat(model["modified_at"]).year > 2000
        details = model["details"]
        assert details["family"] == "gpt2"
        assert details["families"] == ["gpt2"]
        assert details["format"] == "safetensors"
        assert details["parent_model"] == ("" if plain == "base" else "base")
        assert details["quantization_level"] == cards[plain]["weights"]
        assert details["parameter_size"].endswith("K")
        same = {key: running[name][key] for key in ("model", "digest", "size", "details")}
        assert same == {key: model[key] for key in same}
        assert running[name]["size_vram"] == 0
        assert running[name]["context_length"] == CONTEXT


def test_one_of_them_is_shown(client: httpx.Client) -> None:
    listed = {model["name"]: model for model in client.get("/api/tags").json()["models"]}
    for name, capabilities in (
        ("base", ["completion", "embedding"]),
        ("instruct", ["completion", "embedding"]),
        ("spam", ["embedding"]),
    ):
        for body in ({"model": name}, {"name": name}):
            shown = client.post("/api/show", json=body).json()
            assert shown["details"] == listed[f"{name}:latest"]["details"]
            assert shown["modified_at"] == listed[f"{name}:latest"]["modified_at"]
            assert shown["capabilities"] == capabilities
            assert shown["model_info"]["general.architecture"] == "gpt2"
            assert shown["model_info"]["gpt2.context_length"] == CONTEXT
            assert ("### Instruction" in shown["template"]) == (name == "instruct")
    error(client.post("/api/show", json={}), 422)
    error(client.post("/api/show", json={"model": "base", "name": "base"}), 422)
    assert "nobody" in error(client.post("/api/show", json={"model": "nobody"}), 404)


def test_it_has_a_version_and_is_there(client: httpx.Client) -> None:
    assert set(client.get("/api/version").json()) == {"version"}
    for path in ("/", *READ):
        assert client.head(path).status_code == 200


# ---- what is not done ----


def error(answer: httpx.Response, status: int) -> str:
    """What an answer's error says, after a look at what every error has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body: dict[str, str] = answer.json()
    assert set(body) == {"error"}
    assert body["error"]
    return body["error"]


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    *(
        (path, {name: value}, name)
        for path in ("/api/chat", "/api/generate")
        for name, value in {
            "think": True,
            "logprobs": True,
            "top_logprobs": 3,
            "truncate": True,
            "shift": True,
            "invented": 1,
        }.items()
    ),
    ("/api/chat", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ("/api/chat", {"messages": [{"role": "tool", "content": "a"}]}, "messages[0]"),
    ("/api/chat", {"messages": [{**ASK, "images": ["aGk="]}]}, "messages[0].images"),
    ("/api/chat", {"messages": [{**ASK, "thinking": "a"}]}, "messages[0].thinking"),
    ("/api/chat", {"messages": [{**ASK, "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ("/api/generate", {"images": ["aGk="]}, "images"),
    ("/api/generate", {"suffix": "end"}, "suffix"),
    ("/api/generate", {"context": [1, 2]}, "context"),
    ("/api/generate", {"template": "{{ .Prompt }}"}, "template"),
    *(
        (path, {"options": {name: value}}, f"options.{name}")
        for path in ("/api/chat", "/api/generate")
        for name, value in {
            "mirostat": 1,
            "repeat_last_n": 64,
            "penalize_newline": False,
            "typical_p": 0.5,
            "tfs_z": 0.5,
            "vocab_only": True,
            "embedding_only": True,
            "invented": 1,
        }.items()
    ),
    ("/api/embed", {"dimensions": 8}, "dimensions"),
]


@pytest.mark.parametrize(("path", "change", "field"), UNSUPPORTED, ids=lambda v: str(v)[:40])
def test_what_is_not_supported_is_refused_by_name(
    client: httpx.Client, path: str, change: dict[str, Any], field: str
) -> None:
    # What else is wrong is not what has to be told.
    answer = client.post(path, json={**PATHS[path], **change, "keep_alive": []})
    assert error(answer, 400).startswith(f"{field}: ")


INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("/api/chat", {"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
    ("/api/chat", {"messages": [{"role": "user", "content": ""}]}, "messages"),
    ("/api/chat", {"messages": [{"role": "system", "content": "a"}]}, "messages"),
    ("/api/chat", {"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
    ("/api/chat", {"messages": "a"}, "messages"),
    ("/api/generate", {"prompt": 1}, "prompt"),
    ("/api/generate", {"raw": "yes"}, "raw"),
    *(
        (path, change, field)
        for path in ("/api/chat", "/api/generate")
        for change, field in (
            ({"model": None}, "model"),
            ({"stream": "yes"}, "stream"),
            ({"format": "xml"}, "format"),
            ({"format": 1}, "format"),
            ({"keep_alive": []}, "keep_alive"),
            ({"options": []}, "options"),
            ({"options": {"num_predict": 0}}, "options.num_predict"),
            ({"options": {"num_predict": -3}}, "options.num_predict"),
            ({"options": {"temperature": -1}}, "options.temperature"),
            ({"options": {"top_p": 0}}, "options.top_p"),
            ({"options": {"top_k": -1}}, "options.top_k"),
            ({"options": {"seed": -2}}, "options.seed"),
            ({"options": {"stop": [""]}}, "options.stop[0]"),
            ({"options": {"num_thread": "4"}}, "options.num_thread"),
            ({"options": {"num_ctx": CONTEXT + 1}}, "options.num_ctx"),
        )
    ),
    ("/api/embed", {"input": ""}, "input"),
    ("/api/embed", {"input": []}, "input"),
    ("/api/embed", {"input": ["a", 1]}, "input[1]"),
    ("/api/embed", {"input": ["a"] * 2049}, "input"),
]


@pytest.mark.parametrize(("path", "change", "field"), INVALID, ids=lambda v: str(v)[:40])
def test_an_invalid_field_is_named(
    client: httpx.Client, path: str, change: dict[str, Any], field: str
) -> None:
    answer = client.post(path, json={**PATHS[path], **change})
    assert error(answer, 422).startswith(f"{field}: ")


def test_what_asks_for_nothing_is_taken_and_named(client: httpx.Client) -> None:
    load = {"num_ctx": CONTEXT, "num_thread": 4, "use_mmap": True, "num_keep": 4, "num_gpu": 1}
    names = [f"options.{name}" for name in load]
    for path in ("/api/chat", "/api/generate"):
        body = {**PATHS[path], "keep_alive": "5m", "options": {**GREEDY, **load}}
        answer = client.post(path, json=body)
        assert answer.status_code == 200
        ignored = answer.headers["x-ignored-fields"].split(", ")
        assert sorted(ignored) == sorted([*names, "keep_alive"])
        plain = client.post(path, json={**PATHS[path], "options": {**GREEDY, "num_gpu": None}})
        assert "x-ignored-fields" not in plain.headers
    answer = client.post("/api/embed", json={**EMBED, "keep_alive": 0, "options": load})
    assert answer.headers["x-ignored-fields"] == "options, keep_alive"


@pytest.mark.parametrize("path", [*PATHS, "/api/show"])
def test_null_and_what_means_the_same_is_as_good_as_nothing(
    client: httpx.Client, path: str
) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema = schemas[content["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]]
    body = PATHS.get(path, {"model": "base"})
    fields = {name: schema["properties"][name] for name in set(schema["properties"]) - set(body)}
    off: list[dict[str, Any]] = [dict.fromkeys(fields)]
    off += [{name: value} for name, field in fields.items() for value in field.get("enum", ())]
    options = schemas["OllamaOptions"]["properties"]
    if path in ("/api/chat", "/api/generate"):
        assert {"think": False} in off
        off.append({"options": {**dict.fromkeys(options), **GREEDY}})
        off += [
            {"options": {**GREEDY, name: value}}
            for name, field in options.items()
            for value in field.get("enum", ())
        ]
        assert {"options": {**GREEDY, "mirostat": 0}} in off
        off.append({"options": {**GREEDY, "typical_p": 1}})
    for addition in off:
        answer = client.post(path, json={**body, **addition})
        assert answer.status_code == 200, (addition, answer.text)
        assert "x-ignored-fields" not in answer.headers


# ---- errors of all kinds ----


def test_models_paths_methods_and_bodies(client: httpx.Client) -> None:
    for path, body in PATHS.items():
        assert "no model 'nobody'" in error(
            client.post(path, json={**body, "model": "nobody"}), 404
        )
    answer = client.post("/api/chat", json={**CHAT, "model": "base"})
    assert "'base' was not trained to follow instructions" in error(answer, 404)
    assert "nothing at /api/pull" in error(client.post("/api/pull", json={}), 404)
    assert "answers POST" in error(client.get("/api/chat"), 405)
    headers = {"Content-Type": "application/json"}
    for content, status in ((b'{"model": ', 400), (b"[]", 422), (b"\xff", 400), (b"", 422)):
        error(client.post("/api/chat", content=content, headers=headers), status)
    assert "Content-Type" in error(client.post("/api/chat", content=b'{"model": "a"}'), 422)
    # Elsewhere, errors are problems.
    kind = client.get("/apis").headers["content-type"]
    assert kind == "application/problem+json"


def test_what_does_not_fit_the_context_is_refused_with_the_numbers(client: httpx.Client) -> None:
    for path in ("/api/chat", "/api/generate"):
        answer = client.post(path, json={**PATHS[path], "options": {"num_predict": CONTEXT}})
        assert f"options.num_predict is {CONTEXT}: together" in error(answer, 400)


def test_keys_and_sizes(guarded: Live) -> None:
    client = guarded.client
    for path in READ:
        error(client.get(path), 401)
        assert client.get(path, headers=bearer(USER)).status_code == 200
    for path, body in PATHS.items():
        error(client.post(path, json=body), 401)
        assert client.post(path, json=body, headers=bearer(USER)).status_code == 200
        error(client.post(path, content=b" " * (1 << 21), headers=bearer(USER)), 413)
    assert client.head("/").status_code == 200  # how its clients ask whether it is there


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
    for stream in (True, False):
        answer = small.client.post("/api/chat", json={**CHAT, "stream": stream})
        error(answer, 429)
        assert float(answer.headers["retry-after"]) <= 5
    for connection in connections:
        connection.close()
    small.wait(lambda: small.running() == 0)
    small.service.drain()
    for path, body in PATHS.items():
        error(small.client.post(path, json=body), 503)


def test_an_unexpected_error_shows_nothing_of_the_inside(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(models=checkpoints) as live:

        def fail(*_: Any) -> None:
            raise RuntimeError("secret path")

        monkeypatch.setattr(live.service, "model", fail)
        assert "secret" not in error(live.client.post("/api/chat", json=CHAT), 500)
