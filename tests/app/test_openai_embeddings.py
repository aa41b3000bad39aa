"""Embeddings with the official `openai` client."""

import base64
import struct
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from model.engine.engine import Engine
from model.engine.intake import QueueFull
from model.engine.request import Request

from .conftest import Live, serve


def test_embeddings_have_length_one_and_the_order_of_the_inputs(
    ai: openai.OpenAI, client: httpx.Client
) -> None:
    texts = ["The old man", "The sea", "Once upon a time " * 20]
    # The client asks for base64 unless told otherwise.
    answer = ai.embeddings.create(model="base", input=texts)
    assert [each.index for each in answer.data] == [0, 1, 2]
    for each, text in zip(answer.data, texts, strict=True):
        assert np.linalg.norm(each.embedding) == pytest.approx(1, abs=1e-6)
        # Floating-point sums differ in the last bits when others are in the step.
        [alone] = ai.embeddings.create(model="base", input=text, encoding_format="float").data
        assert alone.embedding == pytest.approx(each.embedding, abs=1e-5)
        ids = client.post("/tokenize", json={"text": text}).json()["tokens"]
        [same] = ai.embeddings.create(model="base", input=ids, encoding_format="float").data
        assert same.embedding == alone.embedding
        [same] = ai.embeddings.create(model="base", input=[ids]).data
        assert same.embedding == alone.embedding
    count = sum(
        len(client.post("/tokenize", json={"text": text}).json()["tokens"]) for text in texts
    )
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == count
    adapted = ai.embeddings.create(model="instruct", input=texts[0]).data[0].embedding
    assert adapted != answer.data[0].embedding


def test_a_long_list_is_done_a_part_at_a_time(ai: openai.OpenAI, live: Live) -> None:
    texts = [f"{number} men" for number in range(live.service.settings.max_batch * 2 + 5)]
    found = ai.embeddings.create(model="base", input=texts)
    assert [each.index for each in found.data] == list(range(len(texts)))
    for number in (0, 64, 132):
        [alone] = ai.embeddings.create(model="base", input=texts[number]).data
        assert found.data[number].embedding == pytest.approx(alone.embedding, abs=1e-5)
    assert found.data[0].embedding != pytest.approx(found.data[132].embedding, abs=1e-5)


def test_base64_is_little_endian_fp32(client: httpx.Client) -> None:
    body = {"input": "The sea", "encoding_format": "base64"}
    packed = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    content = base64.b64decode(packed, validate=True)
    body["encoding_format"] = "float"
    plain = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert list(struct.unpack(f"<{len(plain)}f", content)) == plain


def test_a_queue_that_fills_up_halfway_is_waited_for(
    client: httpx.Client, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = live.service.settings.max_batch * 2 + 1
    body = {"model": "base", "input": [[number % 200] for number in range(count)]}
    expected = client.post("/v1/embeddings", json=body).json()
    submit, calls, full = Engine.submit, 0, {2, 3, 5}

    def refuse_some(self: Engine, *requests: Request, probe: bool = False) -> None:
        nonlocal calls
        calls += not probe
        if not probe and calls in full:
            raise QueueFull("so many are waiting")
        submit(self, *requests, probe=probe)

    monkeypatch.setattr(Engine, "submit", refuse_some)
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    assert calls == 6  # three parts, of which the second was tried thrice and the third twice
    found = answer.json()
    assert found["usage"] == expected["usage"]
    assert [each["index"] for each in found["data"]] == list(range(count))
    for each, same in zip(found["data"], expected["data"], strict=True):
        assert each["embedding"] == pytest.approx(same["embedding"], abs=1e-5)
    calls, full = 0, {1}  # nothing is done yet
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "queue_full"


def test_a_queue_that_stays_full_is_waited_for_until_the_deadline(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, calls = Engine.submit, 0

    def refuse_all_but_one(self: Engine, *requests: Request, probe: bool = False) -> None:
        nonlocal calls
        calls += not probe
        if not probe and calls > 1:
            raise QueueFull("so many are waiting")
        submit(self, *requests, probe=probe)

    with serve(models=checkpoints, max_batch=2, request_timeout=1) as live:
        monkeypatch.setattr(Engine, "submit", refuse_all_but_one)
        body = {"model": "base", "input": [[1], [2], [3]]}
        answer = live.client.post("/v1/embeddings", json=body)
        assert answer.status_code == 504
        assert answer.headers["x-should-retry"] == "false"
