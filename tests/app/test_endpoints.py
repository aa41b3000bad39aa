"""What each endpoint answers."""

import itertools
import json
import math
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from model.cpu import library

from .conftest import CONTEXT, Live, serve
from .wire import connect, get, read_answer
from .with_keys import paths


def test_generate_answers_in_the_documented_shape(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "The old man", "max_new_tokens": 6})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"id", "model", "choices", "usage", "timings"}
    assert body["model"] == "base"
    [choice] = body["choices"]
    assert set(choice) == {"index", "text", "finish_reason", "logprobs"}
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert choice["finish_reason"] in ("length", "eos")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["cached_tokens"] == 0
    tokens = client.post("/tokenize", json={"text": "The old man"}).json()["tokens"]
    assert usage["prompt_tokens"] == len(tokens)
    tokens = {"drafted_tokens", "accepted_tokens", "forced_tokens"}
    assert set(body["timings"]) == {"queue", "prefill", "decode"} | tokens
    assert all(value >= 0 for value in body["timings"].values())


def test_the_same_seed_gives_the_same_text(client: httpx.Client) -> None:
    def texts(seed: int | None) -> list[str]:
        body = {"prompt": "The sea", "max_new_tokens": 12, "ignore_eos": True, "seed": seed}
        return [c["text"] for c in client.post("/generate", json=body).json()["choices"]]

    assert texts(5) == texts(5)
    assert texts(5) != texts(6)
    assert texts(None) != texts(None)


def test_choices_are_numbered_by_prompt_and_drawn_with_seeds_of_their_own(
    client: httpx.Client,
) -> None:
    settings = {"max_new_tokens": 8, "ignore_eos": True}
    body = {"prompt": ["The old man", "the sea"], "n": 3, "seed": 10, **settings}
    answer = client.post("/generate", json=body).json()
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == list(range(6))
    for index, choice in enumerate(choices):
        alone = {"prompt": body["prompt"][index // 3], "seed": 10 + index % 3, **settings}
        assert client.post("/generate", json=alone).json()["choices"][0]["text"] == choice["text"]
    assert len({choice["text"] for choice in choices}) == 6
    lengths = [
        len(client.post("/tokenize", json={"text": text}).json()["tokens"])
        for text in body["prompt"]
    ]
    assert answer["usage"]["prompt_tokens"] == sum(lengths)
    assert answer["usage"]["completion_tokens"] == 6 * 8


def test_an_empty_prompt_starts_a_document(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "", "max_new_tokens": 3, "seed": 1})
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] == 1


def test_the_end_token_in_a_text_is_ordinary_text(client: httpx.Client) -> None:
    answer = client.post("/tokenize", json={"text": "<|endoftext|>"})
    tokens = answer.json()["tokens"]
    assert len(tokens) > 1
    assert max(tokens) < 299
    assert client.post(
        "/generate", json={"prompt": "<|endoftext|>", "max_new_tokens": 1}
    ).is_success


def test_max_new_tokens_left_out_is_what_there_is_room_for(client: httpx.Client) -> None:
    def answer(length: int) -> dict[str, Any]:
        body = {"prompt": "a" * length, "ignore_eos": True}
        result: dict[str, Any] = client.post("/generate", json=body).json()
        return result

    assert answer(1)["usage"]["completion_tokens"] == 128
    full = answer(CONTEXT - 3)
    assert full["usage"]["prompt_tokens"] == CONTEXT - 3
    assert full["usage"]["completion_tokens"] == 3


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(client: httpx.Client) -> None:
    body = {"prompt": "The sea", "max_new_tokens": 40, "seed": 3, "ignore_eos": True}
    text = client.post("/generate", json=body).json()["choices"][0]["text"]
    stop = next(a + b for a, b in itertools.pairwise(text[5:]) if (a + b).isascii())
    for given in (stop, ["never there", stop]):
        [choice] = client.post("/generate", json={**body, "stop": given}).json()["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["text"] == text[: text.index(stop)]


@pytest.mark.parametrize("count", [0, 3])
def test_logprobs_report_the_models_own_distribution(client: httpx.Client, count: int) -> None:
    body = {"prompt": "The", "max_new_tokens": 4, "temperature": 0, "ignore_eos": True}
    answer = client.post("/generate", json={**body, "logprobs": count}).json()
    logprobs = answer["choices"][0]["logprobs"]
    assert len(logprobs) == 4
    for entry in logprobs:
        assert set(entry) == {"token", "text", "logprob", "top", "forced"}
        assert entry["logprob"] < 0
        assert len(entry["top"]) == count
        if count:
            # Greedy: the drawn token is the best one.
            assert entry["top"][0]["token"] == entry["token"]
            values = [other["logprob"] for other in entry["top"]]
            assert values == sorted(values, reverse=True)
    assert "logprobs" not in body


def test_instruct_answers_in_the_documented_shape(client: httpx.Client) -> None:
    body = {"instruction": "Say the opposite.", "input": "old", "max_new_tokens": 5}
    answer = client.post("/instruct", json=body)
    assert answer.status_code == 200
    assert set(answer.json()) == {"id", "model", "response", "finish_reason", "usage", "timings"}
    assert answer.json()["model"] == "instruct"
    # Greedy unless something else is asked for.
    assert client.post("/instruct", json=body).json()["response"] == answer.json()["response"]
    other = client.post("/instruct", json={**body, "input": ""}).json()
    assert other["usage"]["prompt_tokens"] < answer.json()["usage"]["prompt_tokens"]


def test_instruct_runs_the_adapter_on_the_template(client: httpx.Client) -> None:
    from model.prompts import instruction_prompt

    settings = {"max_new_tokens": 16, "temperature": 0, "ignore_eos": True}
    prompt = instruction_prompt("Say it.", "sea")
    base = client.post("/generate", json={"prompt": prompt, **settings}).json()
    tuned = client.post(
        "/instruct", json={"instruction": "Say it.", "input": "sea", **settings}
    ).json()
    assert tuned["usage"]["prompt_tokens"] == base["usage"]["prompt_tokens"]
    assert tuned["response"] != base["choices"][0]["text"]


def test_classify_answers_in_the_documented_shape(client: httpx.Client) -> None:
    texts = ["free prize", "see you", "the old man and the sea"]
    answer = client.post("/classify", json={"text": texts})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"model", "results", "usage"}
    assert body["model"] == "spam"
    assert len(body["results"]) == 3
    for result in body["results"]:
        assert set(result) == {
            *("label", "score", "leaning", "probabilities", "tokens", "truncated", "attributions")
        }
        assert set(result["probabilities"]) == {"ham", "spam"}
        assert math.isclose(sum(result["probabilities"].values()), 1, abs_tol=1e-5)
        assert result["score"] == result["probabilities"][result["label"]]
        assert result["truncated"] is False
    assert body["usage"]["prompt_tokens"] == sum(result["tokens"] for result in body["results"])
    # In the order of the texts, and each as if it were alone.
    for text, result in zip(texts, body["results"], strict=True):
        [alone] = client.post("/classify", json={"text": text}).json()["results"]
        assert alone["label"] == result["label"]
        assert math.isclose(alone["score"], result["score"], abs_tol=1e-5)


def test_the_threshold_decides_between_two_labels(client: httpx.Client) -> None:
    [result] = client.post("/classify", json={"text": "sea"}).json()["results"]
    spam = result["probabilities"]["spam"]
    for threshold, label in ((spam - 0.01, "spam"), (spam + 0.01, "ham")):
        body = {"text": "sea", "threshold": threshold}
        [decided] = client.post("/classify", json=body).json()["results"]
        assert decided["label"] == label
        assert decided["score"] == decided["probabilities"][label]


def test_a_long_text_is_read_in_part_only_when_asked(client: httpx.Client) -> None:
    long = "a" * (CONTEXT + 10)
    refused = client.post("/classify", json={"text": ["short", long]})
    assert refused.status_code == 400
    assert "text 1 has 4106 tokens" in refused.json()["detail"]
    body = client.post("/classify", json={"text": ["short", long], "truncate": True}).json()
    assert [result["truncated"] for result in body["results"]] == [False, True]
    assert body["results"][1]["tokens"] == CONTEXT
    [cut] = client.post("/classify", json={"text": "a" * CONTEXT}).json()["results"]
    assert math.isclose(cut["score"], body["results"][1]["score"], abs_tol=1e-5)


def test_tokens_and_text_are_each_others_inverse(client: httpx.Client) -> None:
    text = "Once upon a time – “né!” 🙂"
    tokens = client.post("/tokenize", json={"text": text}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": tokens}).json()["text"] == text
    assert client.post("/tokenize", json={"text": ""}).json()["tokens"] == []
    # Many are decoded in a thread.
    many = client.post("/detokenize", json={"tokens": tokens * 3000})
    assert many.json()["text"] == text * 3000
    beyond = client.post("/detokenize", json={"tokens": [*[72] * 100_000, 300]})
    assert beyond.status_code == 422
    assert beyond.json()["errors"][0]["field"] == "tokens[100000]"


def test_programs_that_expect_vllm_find_its_fields(client: httpx.Client, checkpoints: Path) -> None:
    text = "The old man"
    body = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
    assert body["tokens"] == client.post("/tokenize", json={"text": text}).json()["tokens"]
    assert (body["count"], body["max_model_len"]) == (len(body["tokens"]), CONTEXT)
    assert client.post("/detokenize", json={"tokens": body["tokens"]}).json()["prompt"] == text
    info = client.get("/tokenizer_info", params={"model": "instruct"}).json()
    assert (info["eos_token"], info["vocab_size"]) == ("<|endoftext|>", 300)
    assert info["model_max_length"] == CONTEXT
    assert "messages" in info["chat_template"]
    [end] = client.post("/tokenize", json={"prompt": info["eos_token"]}).json()["tokens"]
    assert end == 299
    # Beside other characters its name is text, as everywhere.
    assert 299 not in client.post("/tokenize", json={"prompt": " <|endoftext|>"}).json()["tokens"]
    assert client.get("/tokenizer_info", params={"model": "none"}).status_code == 404


@pytest.mark.parametrize("fields", [{}, {"text": "a", "prompt": "a"}])
def test_a_text_to_tokenize_has_one_name(client: httpx.Client, fields: dict[str, str]) -> None:
    answer = client.post("/tokenize", json=fields)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "text"


def test_models_are_described(client: httpx.Client, checkpoints: Path) -> None:
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert set(models) == {"base", "spam", "instruct"}
    base, spam = models["base"], models["spam"]
    assert base["tasks"] == ["generate"]
    assert base["base"] is None
    assert base["metrics"] == {"perplexity": {"value": 300.0, "n": 1000}}
    assert base["context_length"] == CONTEXT
    assert base["weights"] == spam["weights"] == ("int8" if library.load() else "float32")
    assert 0.001 < base["weight_error"] < 0.02 if library.load() else base["weight_error"] == 0
    assert spam["base"] == base["checkpoint"]
    assert spam["labels"] == ["ham", "spam"]
    assert spam["positive"] == "spam"
    assert spam["threshold"] == 0.5
    assert spam["parameters"] == base["parameters"] + spam["adapter_parameters"]
    from model.checkpoint import load_base

    loaded = load_base(checkpoints / "base")
    assert base["checkpoint"] == loaded.id
    assert base["sha256"] == loaded.card["files"]["model.safetensors"]
    assert base["parameters"] == loaded.model.parameter_count()


def test_adapters_share_one_engine(live: Any) -> None:
    assert len(live.service.engine_clients()) == 1


def test_a_base_alone_serves_generate_and_says_what_it_does_not(checkpoints: Path) -> None:
    with serve(base=checkpoints / "base") as live:
        assert live.client.post("/generate", json={"prompt": "a", "max_new_tokens": 1}).is_success
        answer = live.client.post("/classify", json={"text": "a"})
        assert answer.status_code == 404
        assert answer.json()["detail"] == "no model here answers /classify; served are: generate"


def test_adapters_and_whole_checkpoints_go_with_a_base(checkpoints: Path) -> None:
    with serve(base=checkpoints / "base", classify=checkpoints / "topic") as live:
        [result] = live.client.post("/classify", json={"text": "sea"}).json()["results"]
        best = max(result["probabilities"], key=result["probabilities"].__getitem__)
        assert result["label"] == best
        refused = live.client.post("/classify", json={"text": "sea", "threshold": 0.5})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "threshold"
        assert len(live.service.engine_clients()) == 1
    with serve(
        base=checkpoints / "base",
        classify=checkpoints / "whole",
        instruct=checkpoints / "instruct",
    ) as live:
        [result] = live.client.post("/classify", json={"text": "sea"}).json()["results"]
        assert set(result["probabilities"]) == {"no", "yes"}
        assert live.client.post("/instruct", json={"instruction": "a", "max_new_tokens": 1})
        assert len(live.service.engine_clients()) == 2
        assert live.client.get("/readyz").status_code == 200


def test_what_a_form_forces_is_marked_and_counted(client: httpx.Client) -> None:
    form = {"type": "regex", "regex": "The (old|young) man and the sea"}
    body = {"prompt": "One", "response_format": form, "max_new_tokens": 60, "temperature": 0}
    metric = r"^penwright_forced_tokens_total (\S+)$"
    before = re.search(metric, client.get("/metrics").text, re.M)
    plain = client.post("/generate", json=body).json()
    after = re.search(metric, client.get("/metrics").text, re.M)
    marked = client.post("/generate", json=body | {"logprobs": 0}).json()
    assert before
    assert after
    forced = plain["timings"]["forced_tokens"]
    assert 0 < forced < plain["usage"]["completion_tokens"]
    assert float(after[1]) - float(before[1]) == forced
    [choice] = marked["choices"]
    assert choice["text"] == plain["choices"][0]["text"]
    assert sum(entry["forced"] for entry in choice["logprobs"]) == forced
    chat = {"prompt": "One", "logprobs": 0, "max_tokens": 60, "temperature": 0}
    answer = client.post("/v1/completions", json=chat | {"response_format": form}).json()
    marks = [entry["forced"] for entry in choice["logprobs"]]
    assert answer["choices"][0]["logprobs"]["forced"] == marks


def test_head_works_wherever_get_does(live: Live) -> None:
    app = live.server.config.app
    assert isinstance(app, FastAPI)
    asked = 0
    for path in sorted(paths(app)):
        target = path.format(name="style.css", model="base")
        if path == "/docs/assets":
            target += "/swagger-ui.css"
        if "{" in target or live.client.get(target).status_code != 200:
            continue
        with connect(live.url) as connection:
            connection.sendall(get(target).replace(b"GET", b"HEAD", 1))
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200 "), target
        assert answer.endswith(b"\r\n\r\n"), target
        assert answer.count(b"\r\n\r\n") == 1, target
        asked += 1
    assert asked >= 11


def test_an_http_1_1_request_has_one_host(live: Live) -> None:
    for version, hosts, status in (
        ("1.1", [], 400),
        ("1.1", ["a", "a"], 400),
        ("1.0", ["a", "b"], 400),
        ("1.1", ["a b"], 400),
        ("1.1", ["a,b"], 400),
        ("1.1", ["user@a"], 400),
        ("1.1", ["a/b"], 400),
        ("1.0", [], 200),
        ("1.1", [""], 200),
        ("1.1", ["localhost:8000"], 200),
        ("1.1", ["127.0.0.1"], 200),
        ("1.1", ["[::1]:80"], 200),
    ):
        with connect(live.url) as connection:
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            connection.sendall(f"GET /healthz HTTP/{version}\r\n{lines}\r\n".encode())
            answered, headers, body = read_answer(connection)
            assert answered == status, (version, hosts)
            if status == 400:
                assert headers["content-type"] == "application/problem+json"
                assert "Host" in json.loads(body)["detail"]
