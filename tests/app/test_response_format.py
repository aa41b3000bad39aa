"""`response_format`: what comes back is of the form, and what is wrong with it is told."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.app.conftest import Live, events

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHOICES = ["the sea", "the girl", "né 🎉"]
REGEX = "[a-d]{3}-(?:é|ö){2}"


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


def body(response_format: Any, **more: Any) -> dict[str, Any]:
    return {
        "prompt": "The old man",
        "max_new_tokens": 300,
        "temperature": 3.0,
        "response_format": response_format,
        **more,
    }


def texts(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    assert {choice["finish_reason"] for choice in choices} <= {"stop", "eos"}
    return [choice["text"] for choice in choices]


def test_json_of_a_schema(client: httpx.Client) -> None:
    prompts = ["The old man", "Once", ""]
    for seed in range(3):
        sent = body(json_schema(PERSON), prompt=prompts, n=4, seed=seed)
        found = texts(client.post("/generate", json=sent))
        assert len(set(found)) == 12
        for text in found:
            jsonschema.validate(json.loads(text), PERSON)


def test_any_json_object(client: httpx.Client) -> None:
    sent = body({"type": "json_object"}, n=8, seed=1, max_new_tokens=1000, logprobs=1)
    answer = client.post("/generate", json=sent).json()
    whole = [c["text"] for c in answer["choices"] if c["finish_reason"] != "length"]
    assert whole
    assert all(isinstance(json.loads(text), dict) for text in whole)


def test_a_regular_expression_and_choices(client: httpx.Client) -> None:
    for seed in range(3):
        sent = body({"type": "regex", "regex": REGEX}, n=4, seed=seed)
        assert all(re.fullmatch(REGEX, t) for t in texts(client.post("/generate", json=sent)))
        sent = body({"type": "choice", "choices": CHOICES}, n=4, seed=seed)
        assert set(texts(client.post("/generate", json=sent))) <= set(CHOICES)


def test_instruct(client: httpx.Client) -> None:
    answer = client.post(
        "/instruct",
        json={
            "instruction": "Name one.",
            "temperature": 2.0,
            "response_format": {"type": "choice", "choices": CHOICES},
        },
    ).json()
    assert answer["response"] in CHOICES
    assert answer["finish_reason"] in ("stop", "eos")


def test_streamed_pieces_are_the_same_text(client: httpx.Client) -> None:
    sent = body(json_schema(PERSON), seed=5, n=2)
    whole = texts(client.post("/generate", json=sent))
    with client.stream("POST", "/generate", json={**sent, "stream": True}) as response:
        found = events(response)
    pieces = ["", ""]
    for _, data in found[:-1]:
        pieces[data["index"]] += data["text"]
    assert pieces == whole
    assert found[-1][1] == "[DONE]"


def test_others_get_what_they_get_alone(client: httpx.Client) -> None:
    free = [body(None, seed=i, max_new_tokens=60, temperature=0.9) for i in range(4)]
    free[3]["response_format"] = {"type": "text"}
    bound = [body(json_schema(PERSON), seed=i) for i in range(4)]
    alone = [client.post("/generate", json=sent).json()["choices"] for sent in free]
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda sent: client.post("/generate", json=sent), [*free, *bound])
        )
    assert [answer.json()["choices"] for answer in answers[:4]] == alone
    for answer in answers[4:]:
        jsonschema.validate(json.loads(texts(answer)[0]), PERSON)


def test_a_cut_text_says_so(client: httpx.Client) -> None:
    answer = client.post("/generate", json=body(json_schema(PERSON), max_new_tokens=3)).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"items": value}
    return value


@pytest.mark.parametrize(
    ("response_format", "said"),
    [
        ({"type": "regex", "regex": "(a"}, "unclosed group"),
        ({"type": "regex", "regex": "(?=a)b"}, "look-around"),
        ({"type": "regex", "regex": ""}, "at least 1 character"),
        ({"type": "regex", "regex": "[^\\s\\S]"}, "no text can satisfy it"),
        ({"type": "regex", "regex": "(" * 900 + ")" * 900}, "nest"),
        ({"type": "regex", "regex": "a" * 2049}, "at most 2048"),
        ({"type": "regex"}, "required"),
        ({"type": "choice", "choices": []}, "at least 1 item"),
        ({"type": "choice", "choices": [""]}, "at least 1 character"),
        ({"type": "choice", "choices": ["a"] * 1001}, "at most 1000 items"),
        ({"type": "choice", "choices": "ab"}, "list"),
        (json_schema({"type": "strin"}), "Invalid type: strin"),
        (json_schema({"not": {}}), '"not"'),
        (json_schema({"const": "x" * 40_000}), "at most 32768"),
        (json_schema({"$ref": "#/gone"}), "gone"),
        (json_schema(deep(300)), "recursion limit"),
        (json_schema([]), "dictionary"),
        (json_schema({"type": "integer", "multipleOf": 99_999_989}), "too much time or memory"),
        ({"type": "json_schema"}, "required"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "other": 1}}, "not permitted"),
        ({"type": "json_object", "other": 1}, "not permitted"),
        ({"type": "xml"}, "does not match any of the expected tags"),
        ({}, "Unable to extract tag"),
        ("text", "dictionary"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_what_is_refused(client: httpx.Client, response_format: Any, said: str) -> None:
    response = client.post("/generate", json=body(response_format))
    assert response.status_code == 422, response.text
    [error] = response.json()["errors"]
    assert re.split(r"\W", error["field"])[0] == "response_format"
    assert said in error["message"]


@pytest.mark.parametrize(
    "response_format",
    [
        r'{"type": "choice", "choices": ["\ud800"]}',
        r'{"type": "regex", "regex": "\udfff"}',
        r'{"type": "json_schema", "json_schema": {"schema": {"const": "\ud800"}}}',
        '{"type": "json_schema", "json_schema": {"schema": {"const": NaN}}}',
        '{"type": "json_schema", "json_schema": {"schema": {"minimum": 1e999}}}',
        '{"type": "json_schema", "json_schema": {"schema": {"minimum": %s}}}' % ("9" * 4000),
    ],
)
def test_json_that_is_none_for_others(client: httpx.Client, response_format: str) -> None:
    content = f'{{"prompt": "a", "response_format": {response_format}}}'
    headers = {"Content-Type": "application/json"}
    response = client.post("/generate", content=content, headers=headers)
    assert response.status_code == 422, response.text
    assert "response_format" in response.json()["detail"]


def test_nul_is_a_character_like_others(client: httpx.Client) -> None:
    sent = body({"type": "choice", "choices": ["a\0b"]})
    assert texts(client.post("/generate", json=sent)) == ["a\0b"]
    sent = body({"type": "regex", "regex": "a\0b"})
    assert texts(client.post("/generate", json=sent)) == ["a\0b"]


def test_the_end_cannot_be_ignored(client: httpx.Client) -> None:
    response = client.post("/generate", json=body({"type": "json_object"}, ignore_eos=True))
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "ignore_eos"


def test_what_becomes_too_complex_is_an_error_of_its_own(live: Live) -> None:
    """It passes the check, and fails after some tokens: as an answer, and as an event."""
    hostile = {"type": "regex", "regex": "(([a-z]{1,100}){1,100}){1,100}"}
    response = live.client.post("/generate", json=body(hostile, seed=1))
    assert response.status_code == 422
    assert "too many" in response.json()["errors"][0]["message"]
    with live.client.stream("POST", "/generate", json=body(hostile, seed=1, stream=True)) as stream:
        name, problem = events(stream)[-1]
    assert (name, problem["status"]) == ("error", 422)
    assert live.client.get("/readyz").status_code == 200
    live.wait(lambda: live.running() == 0)


def test_compiling_does_not_hold_others_up(live: Live) -> None:
    """A schema that takes all the time that it may, and plain requests meanwhile."""
    patterns = [{"pattern": f"a.{{{i}}}b"} for i in range(10, 40)]
    with ThreadPoolExecutor(1) as threads:
        slow = body(json_schema({"type": "string", "allOf": patterns}))
        waiting = threads.submit(live.client.post, "/generate", json=slow)
        answered = 0
        while not waiting.done():
            plain = live.client.post("/generate", json={"prompt": "a", "max_new_tokens": 5})
            assert plain.status_code == 200
            answered += 1
    assert answered >= 3
    assert waiting.result().status_code == 422


def test_too_many_to_compile_at_once(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.constraint_compiler._MOST_WAITING", 0)
    slow = [json_schema({"type": "integer", "multipleOf": 199_999 + i}) for i in range(4)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda s: live.client.post("/generate", json=body(s)), slow))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 422, 429}
    refused = answers[statuses.index(429)]
    assert refused.headers["Retry-After"]
    assert "compiled" in refused.json()["detail"]
