"""The official `openai` client against a real port: what it sends is done, as it expects."""

import asyncio
import json
import logging
from collections import defaultdict
from typing import Any

import httpx
import openai
import pytest

from .conftest import CONTEXT, TEXT, Live

SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 3}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def test_models_are_listed_with_their_context(ai: openai.OpenAI) -> None:
    models = {model.id: model for model in ai.models.list()}
    assert set(models) == {"base", "spam", "instruct"}
    assert ai.models.retrieve("instruct") == models["instruct"]
    assert models["base"].object == "model"
    assert models["base"].created > 0
    extra = models["base"].model_extra
    assert extra is not None
    assert extra["max_model_len"] == CONTEXT
    assert extra["tasks"] == ["generate"]


def test_a_completion_is_what_generate_answers(ai: openai.OpenAI, client: httpx.Client) -> None:
    settings = {**SAMPLED, "n": 2, "presence_penalty": 0.5, "frequency_penalty": 0.2, "stop": ["q"]}
    answer = ai.completions.create(model="base", prompt="The sea", max_tokens=30, **settings)
    own = client.post(
        "/generate", json={"prompt": "The sea", "max_new_tokens": 30, **settings}
    ).json()
    assert [choice.text for choice in answer.choices] == [c["text"] for c in own["choices"]]
    reasons = {"eos": "stop", "stop": "stop", "length": "length"}
    assert [choice.finish_reason for choice in answer.choices] == [
        reasons[choice["finish_reason"]] for choice in own["choices"]
    ]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == "base"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == own["usage"]["prompt_tokens"]
    assert answer.usage.completion_tokens == own["usage"]["completion_tokens"]
    assert answer.usage.total_tokens == own["usage"]["total_tokens"]
    [checkpoint] = [
        card["checkpoint"]
        for card in client.get("/models").json()["models"]
        if card["name"] == "base"
    ]
    assert answer.system_fingerprint == f"fp_{checkpoint[:16]}"


def test_prompts_are_texts_or_token_ids_one_or_many(
    ai: openai.OpenAI, client: httpx.Client
) -> None:
    texts = ["The sea", "A girl said"]
    ids = [client.post("/tokenize", json={"text": text}).json()["tokens"] for text in texts]

    def complete(prompt: Any) -> list[str]:
        settings: dict[str, Any] = {**SAMPLED, "n": 2, "extra_body": {"ignore_eos": True}}
        answer = ai.completions.create(model="base", prompt=prompt, **settings)
        assert answer.usage is not None
        # OpenAI's default of max_tokens is 16.
        assert answer.usage.completion_tokens == 16 * len(answer.choices)
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    first, both = complete(texts[0]), complete(texts)
    assert len(set(both)) == 4
    assert both[:2] == first == complete(ids[0]) == complete([texts[0]])
    assert both == complete(ids)
    # An empty prompt, like none, starts a new document.
    assert complete("") == complete(None) != first


@pytest.mark.parametrize("seed", range(3))
def test_logprobs_of_a_completion(ai: openai.OpenAI, client: httpx.Client, seed: int) -> None:
    body: dict[str, Any] = {"prompt": "née", "seed": seed, "logprobs": 3, "temperature": 1.5}
    answer = ai.completions.create(model="base", max_tokens=40, **body)
    [choice] = answer.choices
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    assert found.top_logprobs is not None
    assert answer.usage is not None
    assert len(found.tokens) == answer.usage.completion_tokens
    own = client.post("/generate", json={**body, "max_new_tokens": 40}).json()["choices"][0]
    assert found.token_logprobs == [value["logprob"] for value in own["logprobs"]]
    for offset, token, logprob, top in zip(
        found.text_offset, found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        if token != "<|endoftext|>" and not token.startswith("bytes:"):
            # Bytes before it that are no character become U+FFFD only now.
            assert choice.text[offset:].lstrip("\ufffd").startswith(token)
        assert top[token] == logprob
        assert 3 <= len(top) <= 4


def test_the_end_token_has_no_place_in_the_text(ai: openai.OpenAI, live: Live) -> None:
    end = live.service.any_model("base").base.tokenizer.end_token
    [a] = live.client.post("/tokenize", json={"text": "a"}).json()["tokens"]
    [choice] = ai.completions.create(
        model="base",
        prompt="a",
        max_tokens=30,
        logprobs=0,
        seed=1,
        logit_bias={str(a): 100, str(end): 100},
        extra_body={"ignore_eos": True},
    ).choices
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert set(choice.logprobs.tokens) == {"a", "<|endoftext|>"}
    tokens = choice.logprobs.tokens
    assert choice.text == "a" * tokens.count("a")
    assert choice.logprobs.text_offset == [tokens[:i].count("a") for i in range(30)]


def test_a_part_of_a_character_is_named_by_its_bytes(
    ai: openai.OpenAI, client: httpx.Client
) -> None:
    # Both bytes of ß, which the tokenizer has not merged; a bias makes the model say them.
    first, second = client.post("/tokenize", json={"text": "ß"}).json()["tokens"]
    found = ai.completions.create(
        model="base",
        prompt="a",
        max_tokens=20,
        logprobs=0,
        seed=1,
        logit_bias={str(first): 100, str(second): 100},
    ).choices[0]
    assert found.logprobs is not None
    assert found.logprobs.tokens is not None
    assert set(found.logprobs.tokens) == {"bytes:\\xc3", "bytes:\\x9f"}
    assert "ß" in found.text


def test_a_bias_bars_or_forces_tokens(ai: openai.OpenAI, client: httpx.Client) -> None:
    [a] = client.post("/tokenize", json={"text": "a"}).json()["tokens"]
    settings: dict[str, Any] = {"model": "base", "prompt": "The", "max_tokens": 12, "n": 3}
    settings["extra_body"] = {"ignore_eos": True}
    forced = ai.completions.create(**settings, logit_bias={str(a): 100})
    assert [choice.text for choice in forced.choices] == ["a" * 12] * 3
    settings |= {"n": 1, "seed": 1}
    [first, *_] = client.post(
        "/tokenize", json={"text": ai.completions.create(**settings).choices[0].text}
    ).json()["tokens"]
    barred = ai.completions.create(**settings, logit_bias={str(first): -100}).choices[0].text
    assert client.post("/tokenize", json={"text": barred}).json()["tokens"][0] != first


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_streamed_completion_is_the_same(ai: openai.OpenAI, logprobs: int | None) -> None:
    body: dict[str, Any] = {"model": "base", "prompt": [TEXT[:40], "née"], "max_tokens": 40, "n": 2}
    body |= {"temperature": 1.3, "seed": 5, "logprobs": logprobs}
    whole = ai.completions.create(**body)
    texts: dict[int, str] = defaultdict(str)
    values: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    reasons = {}
    chunks = list(ai.completions.create(**body, stream=True))
    for chunk in chunks:
        assert chunk.usage is None
        assert "usage" not in chunk.model_fields_set
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        if choice.logprobs is not None:
            for name, more in choice.logprobs.model_dump().items():
                values[choice.index][name] += more
        if choice.finish_reason is not None:
            assert choice.index not in reasons
            reasons[choice.index] = choice.finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert reasons[choice.index] == choice.finish_reason
        if logprobs is not None:
            assert choice.logprobs is not None
            assert values[choice.index] == choice.logprobs.model_dump()


def test_the_asynchronous_client_with_many_at_once(live: Live, ai: openai.OpenAI) -> None:
    def body(number: int) -> dict[str, Any]:
        return {"model": "base", "prompt": f"{number} men", "max_tokens": 12, "seed": number}

    async def stream(client: openai.AsyncOpenAI, number: int) -> str:
        pieces = await client.completions.create(**body(number), stream=True)
        return "".join([piece.choices[0].text async for piece in pieces])

    async def run() -> list[str]:
        url = f"{live.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*[stream(client, number) for number in range(8)])

    alone = [ai.completions.create(**body(number)).choices[0].text for number in range(8)]
    assert asyncio.run(run()) == alone


def test_a_completion_has_a_format_too(ai: openai.OpenAI) -> None:
    wanted = {"type": "choice", "choices": ["yes", "no"]}
    answer = ai.completions.create(
        model="base", prompt="a", n=4, extra_body={"response_format": wanted}
    )
    assert {choice.text for choice in answer.choices} <= {"yes", "no"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


def test_raw_answers_have_the_headers(ai: openai.OpenAI) -> None:
    raw = ai.completions.with_raw_response.create(
        model="base", prompt="a", max_tokens=1, extra_headers={"X-Request-ID": "mine-1"}
    )
    assert raw.headers["x-request-id"] == raw.request_id == "mine-1"
    assert raw.headers["content-type"] == "application/json"
    answer = raw.parse()
    assert answer._request_id == "mine-1"
    stream = ai.completions.with_raw_response.create(
        model="base", prompt="a", max_tokens=1, stream=True
    )
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [chunk.choices[0].index for chunk in stream.parse()]


def test_the_user_is_in_the_access_log(
    ai: openai.OpenAI, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    ai.completions.create(model="base", prompt="a", max_tokens=1, user="anna")
    ai.chat.completions.create(model="instruct", messages=[user("a")], max_tokens=1, user="ben")
    ai.embeddings.create(model="base", input="a", user="carl")
    # A line is written when its answer is complete.
    live.wait(lambda: len(caplog.records) == 3)
    assert [getattr(record, "user", None) for record in caplog.records] == ["anna", "ben", "carl"]


def test_a_stream_that_is_closed_frees_its_slot(ai: openai.OpenAI, live: Live) -> None:
    settings: dict[str, Any] = {"stream": True, "extra_body": {"ignore_eos": True}}
    completing = {"model": "base", "prompt": "a", "max_tokens": CONTEXT - 1, **settings}
    chatting = {"model": "instruct", "messages": [user("a")], **settings}
    for create, body in (
        (ai.completions.create, completing),
        (ai.chat.completions.create, chatting),
    ):
        stream: Any = create(**body)
        next(iter(stream))
        live.wait(lambda: live.running() == 1)
        stream.close()
        live.wait(lambda: live.running() == 0, 1)
    live.wait(lambda: live.service.in_flight == 0)
    assert not live.service.engine_clients()[0]._submitted


def test_what_penwright_adds_is_taken_from_the_extra_body(
    ai: openai.OpenAI, client: httpx.Client
) -> None:
    own = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.3, "ignore_eos": True}
    answer = ai.completions.create(
        model="base", prompt="The sea", max_tokens=20, seed=1, temperature=2, extra_body=own
    )
    body = {"prompt": "The sea", "max_new_tokens": 20, "seed": 1, "temperature": 2, **own}
    assert (
        answer.choices[0].text == client.post("/generate", json=body).json()["choices"][0]["text"]
    )
    del own["top_k"]
    other = ai.completions.create(
        model="base", prompt="The sea", max_tokens=20, seed=1, temperature=2, extra_body=own
    )
    assert other.choices[0].text != answer.choices[0].text


def test_the_events_are_what_the_description_says(client: httpx.Client) -> None:
    body = {"prompt": "a", "max_tokens": 2, "stream": True, "stream_options": {}}
    lines = [line for line in client.post("/v1/completions", json=body).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        assert line.startswith("data: ")
        assert json.loads(line.removeprefix("data: "))["object"] == "text_completion"
