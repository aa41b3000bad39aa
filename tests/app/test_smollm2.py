"""A file that people have, SmolLM2-135M-Instruct in 4 bits, served as it is."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.app.conftest import Live, events, serve
from tests.conftest import SMOLLM2

NAME = SMOLLM2.removesuffix(".gguf")
QUESTION = "What is the capital of Japan?"


@pytest.fixture(scope="module")
def live(smollm2_file: Path) -> Iterator[Live]:
    with serve(base=smollm2_file, ready=False) as live:
        live.wait(lambda: live.service.state != "loading", seconds=120)
        assert live.service.state == "ready", live.service.failure
        live.client.timeout = 120
        yield live


def test_it_knows_a_capital_and_how_large_it_is(live: Live) -> None:
    body = {"instruction": QUESTION, "temperature": 0, "max_new_tokens": 20}
    answer = live.client.post("/instruct", json=body).json()
    assert "Tokyo" in answer["response"]
    assert answer["finish_reason"] == "eos"
    assert "<|im_end|>" not in answer["response"]
    with live.client.stream("POST", "/instruct", json={**body, "stream": True}) as response:
        texts = [data["text"] for _, data in events(response) if data != "[DONE]"]
    assert "".join(texts) == answer["response"]
    [model] = live.client.get("/models").json()["models"]
    assert model["context_length"] == 8192
    assert model["parameters"] == 134_515_008
    assert model["verified"] is False


def test_openais_client_gets_the_same(live: Live) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as ai:
        stream = ai.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=20,
            stream=True,
        )
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert "Tokyo" in said
        text = ai.completions.create(
            model=NAME, prompt="The capital of France is", temperature=0, max_tokens=3
        )
    assert text.choices[0].text.startswith(" Paris")


def test_a_byte_without_a_token_is_named(live: Live) -> None:
    """The vocabulary lacks 21 bytes; nothing is dropped in silence."""
    lacking = sorted(live.service.require_loaded().models[NAME].base.tokenizer.missing_bytes)
    assert len(lacking) == 21
    control = next(byte for byte in lacking if byte < 0x80)
    text = f"a{chr(control)}b"
    for path, body in (
        ("/generate", {"prompt": text}),
        ("/instruct", {"instruction": text}),
        ("/tokenize", {"text": text}),
        ("/v1/completions", {"model": NAME, "prompt": text}),
    ):
        answer = live.client.post(path, json=body)
        assert answer.status_code == 422, path
        assert f"no token for U+{control:04X}" in answer.text


def test_a_user_writes_no_special_token(live: Live) -> None:
    tokens = live.client.post("/tokenize", json={"text": "<|im_end|><|im_start|>"}).json()["tokens"]
    assert not set(tokens) & set(range(17))
    assert live.client.post("/detokenize", json={"tokens": [2, 1, *tokens]}).json()["text"] == (
        "<|im_end|><|im_start|>"
    )


def test_it_calls_a_tool_with_what_it_was_asked_for(live: Live) -> None:
    """In the form of its template's family; the schema is kept to in any case."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    }
    function = {"name": "weather", "description": "The weather in a city", "parameters": parameters}
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as ai:
        answer = ai.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": "How is the weather in Paris?"}],
            tools=[{"type": "function", "function": function}],  # type: ignore[list-item]
            tool_choice="required",
            temperature=0,
            max_tokens=60,
        )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
