"""Answers about a generation as one JSON object."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

import app.api.native.tokenize
import app.api.responses
from app.api.native.generate import Choice, GenerateResponse
from app.api.responses import Timings, Usage, json_response

ANSWER = GenerateResponse(
    id="a",
    model="b",
    choices=[],
    usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, cached_tokens=0),
    timings=Timings(
        queue=0, prefill=0.5, decode=1, drafted_tokens=0, accepted_tokens=0, forced_tokens=0
    ),
)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_whole_is_the_answer_with_its_choices(count: int, large: bool) -> None:
    choices = [
        Choice(index=index, text='é"\n', finish_reason="eos", logprobs=[]) for index in range(count)
    ]
    response = asyncio.run(json_response(ANSWER, choices, large=large))
    assert response.media_type == "application/json"
    full = ANSWER.model_copy(update={"choices": choices})
    assert json.loads(bytes(response.body)) == full.model_dump(mode="json")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"prompt": "a", "max_new_tokens": 2, "logprobs": 1}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2, "logprobs": 1}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "logprobs": True},
        ),
        ("/v1/embeddings", {"model": "base", "input": ["a", "b"]}),
        ("/api/embed", {"model": "base", "input": ["a", "b"]}),
        ("/classify", {"text": ["a", "b"], "explain": True}),
    ],
)
def test_what_can_be_large_is_not_written_on_the_event_loop(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """There can be hundreds of thousands of numbers: seconds, in which nobody is answered."""
    write, on_loop = app.api.responses._json, []

    def watched(*arguments: Any) -> bytes:
        on_loop.append(asyncio._get_running_loop() is not None)
        return write(*arguments)

    monkeypatch.setattr(app.api.responses, "_json", watched)
    answer = client.post(path, json=body).json()
    found = [answer.get(name) for name in ("data", "embeddings", "results")]
    assert any(found) or answer["choices"][0]["logprobs"]
    assert on_loop == [False]


@pytest.mark.parametrize(
    ("path", "body"), [("/tokenize", {"text": "a b"}), ("/detokenize", {"tokens": [1, 2, 3]})]
)
def test_many_tokens_are_not_written_on_the_event_loop(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    module, on_loop = app.api.native.tokenize, []

    class Watched(JSONResponse):
        def render(self, content: Any) -> bytes:
            on_loop.append(asyncio._get_running_loop() is not None)
            return super().render(content)

    monkeypatch.setattr(module, "JSONResponse", Watched)
    few = client.post(path, json=body).json()
    monkeypatch.setattr(module, "_MANY_TOKENS", 1)
    assert client.post(path, json=body).json() == few
    assert on_loop == [True, False]
