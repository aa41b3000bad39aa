"""Answers about a generation as one JSON object."""

import asyncio
import json
from typing import Any

import httpx
import pytest

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
    ],
)
def test_logprobs_are_not_written_on_the_event_loop(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """There can be hundreds of thousands: seconds, in which nobody else would be answered."""
    write, on_loop = app.api.responses._json, []

    def watched(*arguments: Any) -> str:
        on_loop.append(asyncio._get_running_loop() is not None)
        return write(*arguments)

    monkeypatch.setattr(app.api.responses, "_json", watched)
    assert client.post(path, json=body).json()["choices"][0]["logprobs"]
    assert on_loop == [False]
