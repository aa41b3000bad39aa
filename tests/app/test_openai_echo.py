"""`echo` and log-probabilities of the prompt: what programs that measure models ask for."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from app.keys.key_file import KeyEntry, digest, dump_entries
from model.checkpoint import Base, load_base

from .conftest import Live, serve
from .with_keys import bearer

TEXT = "Once upon a time – “né!”"


@pytest.fixture(scope="module")
def base(checkpoints: Path) -> Base:
    return load_base(checkpoints / "base")


def complete(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"model": "base", "temperature": 0, **fields}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def of_network(base: Base, tokens: list[int]) -> list[float]:
    """The log-probability of each token but the first."""
    with torch.inference_mode():
        logits = base.model.logits(base.model(torch.tensor([tokens])))[0]
    rows = torch.log_softmax(logits.double(), dim=-1)
    return [float(row[token]) for row, token in zip(rows, tokens[1:], strict=False)]


@pytest.mark.parametrize("new", [0, 1, 5])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_the_prompt_comes_first_with_its_log_probabilities(
    client: httpx.Client, base: Base, new: int, as_tokens: bool
) -> None:
    tokens = base.tokenizer.encode(TEXT)
    prompt = tokens if as_tokens else TEXT
    found = complete(client, prompt=prompt, max_tokens=new, logprobs=2, echo=True)
    [choice] = found["choices"]
    plain = complete(client, prompt=prompt, max_tokens=max(new, 1), ignore_eos=True)
    assert choice["text"].startswith(TEXT)
    if new:
        assert choice["text"].startswith(TEXT + plain["choices"][0]["text"][:1])
    logprobs = choice["logprobs"]
    lengths = {name: len(values) for name, values in logprobs.items()}
    assert set(lengths.values()) == {len(logprobs["tokens"])}
    assert len(tokens) <= len(logprobs["tokens"]) <= len(tokens) + new
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1 : len(tokens)] == pytest.approx(
        of_network(base, tokens), abs=0.02
    )
    for token, logprob, top in list(
        zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    )[1:]:
        assert top[token] == logprob
        assert 2 <= len(top) <= 3
        assert max(top.values()) >= logprob
    # Each token of whole characters stands where it is said to.
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice["text"][offset:].startswith(token)
    assert found["usage"]["prompt_tokens"] == len(tokens)
    assert choice["finish_reason"] == ("length" if new == 0 else choice["finish_reason"])
    assert choice["prompt_logprobs"] is None


def test_without_log_probabilities_it_is_the_text_alone(client: httpx.Client) -> None:
    found = complete(client, prompt=["a", "the sea"], max_tokens=0, echo=True, n=2)
    assert [c["text"] for c in found["choices"]] == ["a", "a", "the sea", "the sea"]
    assert [c["index"] for c in found["choices"]] == [0, 1, 2, 3]
    assert all(c["logprobs"] is None for c in found["choices"])
    assert found["usage"]["completion_tokens"] == 0


def test_a_stream_begins_with_the_prompt(ai: openai.OpenAI) -> None:
    prompts = ["the old man", "the sea"]
    parts: dict[int, str] = {}
    stream = ai.completions.create(
        model="base", prompt=prompts, max_tokens=4, temperature=0, echo=True, stream=True
    )
    for chunk in stream:
        for choice in chunk.choices:
            parts[choice.index] = parts.get(choice.index, "") + choice.text
    whole = ai.completions.create(
        model="base", prompt=prompts, max_tokens=4, temperature=0, echo=True
    )
    assert parts == {choice.index: choice.text for choice in whole.choices}
    assert all(parts[index].startswith(text) for index, text in enumerate(prompts))


def test_prompt_logprobs_are_as_vllm_has_them(client: httpx.Client, base: Base) -> None:
    tokens = base.tokenizer.encode(TEXT)
    found = complete(client, prompt=TEXT, max_tokens=1, prompt_logprobs=1, logprobs=3, echo=True)
    [choice] = found["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert len(others) == len(tokens) - 1
    for token, places in zip(tokens[1:], others, strict=True):
        own = places[str(token)]
        assert 1 <= len(places) <= 2
        best = next(place for place in places.values() if place["rank"] == 1)
        assert (own["rank"] == 1) == (len(places) == 1)
        assert best["logprob"] >= own["logprob"]
        assert own["decoded_token"] == base.tokenizer.token_name(token)
    # Each gets as many of the most probable as it asks for.
    assert all(len(top) >= 3 for top in choice["logprobs"]["top_logprobs"][1:])
    alone = complete(client, prompt=TEXT, max_tokens=0, prompt_logprobs=1)["choices"][0]
    assert alone["text"] == ""
    assert alone["prompt_logprobs"] == choice["prompt_logprobs"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "stream": True}, "stream"),
        ({"max_tokens": 1, "echo": True, "logprobs": 1, "stream": True}, "stream"),
        ({"max_tokens": 1, "prompt_logprobs": 1, "stream": True}, "stream"),
        ({"max_tokens": -1, "echo": True}, "max_tokens"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"echo": "yes"}, "echo"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    client: httpx.Client, fields: dict[str, Any], field: str
) -> None:
    answer = client.post("/v1/completions", json={"model": "base", "prompt": "a", **fields})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["param"] == field


def test_a_prompt_beyond_the_context_is_refused(live: Live) -> None:
    tokens = [5] * (live.service.require_loaded().models["base"].context_length + 1)
    body = {"model": "base", "prompt": tokens, "max_tokens": 0, "logprobs": 0, "echo": True}
    answer = live.client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert f"has {len(tokens)} tokens" in answer.json()["error"]["message"]


def test_its_tokens_count_against_the_key(checkpoints: Path, tmp_path: Path) -> None:
    key = "pw-measured-0123456789"
    file = tmp_path / "keys.json"
    entry = KeyEntry(label="measured", sha256=digest(key), tokens_per_minute=100)
    file.write_bytes(dump_entries([entry]))
    with serve(models=checkpoints, api_keys=file) as own:

        def ask(count: int, new: int) -> int:
            body = {"model": "base", "prompt": [5] * count, "max_tokens": new, "echo": True}
            answer = own.client.post(
                "/v1/completions", json={**body, "logprobs": 0}, headers=bearer(key)
            )
            return answer.status_code

        # 60 to be scored, and 60 with one new token more.
        assert ask(60, 1) == 400
        assert ask(60, 0) == 200
        assert ask(60, 0) == 429
