"""The whole path as a user walks it, in real processes: text, three trainings, three endpoints."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import environment, serve

NAMES = ("Anna", "Ben", "Clara", "David", "Emma")
PLACES = ("the market", "the river", "the school", "the old house")
THINGS = ("bread", "a red ball", "two fish", "a letter")


def program(name: str, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run one of the two programs; its exit code must be `expect`."""
    module = {"penwright-train": "training.cli", "penwright-serve": "app.cli"}[name]
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def write_data(directory: Path) -> None:
    """Small data with something to learn in it, made from a fixed seed."""
    draw = random.Random(0)
    sentences = [
        f"{draw.choice(NAMES)} went to {draw.choice(PLACES)} and bought {draw.choice(THINGS)}."
        for _ in range(1500)
    ]
    stories = [" ".join(sentences[i : i + 5]) for i in range(0, len(sentences), 5)]
    (directory / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    rows = []
    for i in range(300):
        if i % 4 == 0:
            rows.append(f"spam\tWIN a prize, call {draw.randrange(10**6)} now!")
        else:
            rows.append(f"ham\t{draw.choice(NAMES)} is at {draw.choice(PLACES)} number {i}")
    (directory / "messages.tsv").write_text("\n".join(rows) + "\n")
    instructions = [
        {"instruction": "Where did they go?", "input": f"{name} went {i} times.", "output": name}
        for i in range(40)
        for name in NAMES
    ]
    (directory / "instructions.json").write_text(json.dumps(instructions))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model set that the command line trained."""
    root = tmp_path_factory.mktemp("path")
    write_data(root)
    models = root / "models"
    loop = ("--threads", 1, "--precision", "fp32")
    program(
        *("penwright-train", "tokenizer", "--data", root / "stories.txt", root / "messages.tsv"),
        *("--vocab-size", 360, "--out", root / "own.tiktoken"),
    )
    pretrain = (
        *("penwright-train", "pretrain", "--data", root / "stories.txt", "--preset", "tiny"),
        *("--tokenizer", root / "own.tiktoken", "--out", models / "base", "--steps", 120),
        *("--context", 256),
        *("--batch-size", 8, "--lr", 3e-3, "--eval-every", 60, "--sample-every", 60, *loop),
    )
    shown = program(*pretrain)
    assert "Once upon a time" in shown.stdout  # samples while it learns
    program(
        *("penwright-train", "classify", "--base", models / "base", "--epochs", 4, *loop),
        *("--data", root / "messages.tsv", "--out", models / "spam", "--lr", 5e-3),
    )
    program(
        *("penwright-train", "instruct", "--base", models / "base", "--epochs", 2, *loop),
        *("--data", root / "instructions.json", "--out", models / "instruct", "--lr", 5e-3),
    )
    (models / "models.json").write_text(
        '{"format_version": 1, "generate": "base", "classify": "spam", "instruct": "instruct"}'
    )
    return models


@pytest.fixture(scope="module")
def client(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server of these models."""
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with serve(log, "--models", models) as (client, _):
        yield client


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON events of a stream, which must end with [DONE]."""
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_run_leaves_metrics_and_a_plot(models: Path) -> None:
    run = models / "base.run"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 120
    assert losses[-1] < 0.5 * losses[0]
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_generate(client: httpx.Client) -> None:
    body = {"prompt": "Anna went to", "max_new_tokens": 20, "temperature": 0}
    answer = client.post("/generate", json=body).json()
    [choice] = answer["choices"]
    # It learnt its text: one of the places, in words that it never saw as a whole elsewhere.
    assert any(choice["text"].startswith(" " + place) for place in PLACES), choice
    assert answer["usage"]["completion_tokens"] <= 20
    pieces = events(client, "/generate", body)
    assert "".join(piece.get("text", "") for piece in pieces) == choice["text"]


def test_the_same_seed_gives_the_same_text(client: httpx.Client) -> None:
    body = {"prompt": "Ben", "max_new_tokens": 30, "temperature": 1.2, "seed": 5}
    first, second = (client.post("/generate", json=body).json() for _ in range(2))
    other = client.post("/generate", json={**body, "seed": 6}).json()
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    assert first["choices"][0]["text"] != other["choices"][0]["text"]


def test_classify(client: httpx.Client) -> None:
    texts = ["WIN a prize, call 123456 now!", "Emma is at the river number 999"]
    results = client.post("/classify", json={"text": texts}).json()["results"]
    assert [result["label"] for result in results] == ["spam", "ham"]
    for result in results:
        assert result["score"] == result["probabilities"][result["label"]] > 0.8


def test_instruct(client: httpx.Client) -> None:
    body = {"instruction": "Where did they go?", "input": "Emma went 3 times."}
    answer = client.post("/instruct", json=body).json()
    assert answer["finish_reason"] == "eos"  # it learnt to end
    assert answer["response"].strip() in NAMES
    pieces = events(client, "/instruct", body)
    assert "".join(piece.get("text", "") for piece in pieces) == answer["response"]


def test_the_models_are_described_and_counted(client: httpx.Client) -> None:
    names = [model["name"] for model in client.get("/models").json()["models"]]
    assert sorted(names) == ["base", "instruct", "spam"]
    metrics = client.get("/metrics").text
    assert "penwright_requests_running 0" in metrics
    assert "penwright_requests_waiting 0" in metrics
    assert client.get("/healthz").status_code == 200
    assert client.get("/docs").status_code == 200


def test_evaluation_gives_the_numbers_of_the_card_again(models: Path, tmp_path: Path) -> None:
    card = json.loads((models / "spam" / "card.json").read_text())
    out = tmp_path / "metrics.json"
    program(
        *("penwright-train", "evaluate", models / "spam"),
        *("--data", models.parent / "messages.tsv", "--json", out),
    )
    measured = json.loads(out.read_text())["metrics"]
    for part in ("test_natural", "test_balanced"):
        assert measured[part] == card["metrics"][part]


def test_a_finished_run_that_is_resumed_publishes_the_same_weights(
    models: Path, tmp_path: Path
) -> None:
    root = models.parent
    program(
        *("penwright-train", "pretrain", "--data", root / "stories.txt", "--preset", "tiny"),
        *("--tokenizer", root / "own.tiktoken", "--out", tmp_path / "again", "--steps", 120),
        *("--context", 256),
        *("--batch-size", 8, "--lr", 3e-3, "--eval-every", 60, "--sample-every", 60),
        *("--threads", 1, "--precision", "fp32", "--run", models / "base.run", "--resume"),
    )
    files = (models / "base" / "model.safetensors", tmp_path / "again" / "model.safetensors")
    assert files[0].read_bytes() == files[1].read_bytes()
