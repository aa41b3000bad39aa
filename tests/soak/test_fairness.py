"""Who asks for little beside those who ask for much; and how long the event loop stands still."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import SCRATCH

from .server import Running, running

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

BATCH = {"prompt": ["the old man"] * 64, "max_new_tokens": 120, "ignore_eos": True}
SHORT: list[tuple[str, dict[str, Any]]] = [
    ("/classify", {"text": "call now to win a prize"}),
    ("/generate", {"prompt": "the sea", "max_new_tokens": 8, "ignore_eos": True}),
]
BATCHES, SHORTS = 5, 60


def percentile(seconds: list[float], p: int) -> float:
    return sorted(seconds)[max(0, -(-p * len(seconds) // 100) - 1)]


def test_short_requests_beside_batches(tmp_path: Path) -> None:
    async def ask(server: Running) -> tuple[list[float], dict[str, list[float]]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:

            async def timed(path: str, body: dict[str, Any]) -> float:
                started = time.monotonic()
                answer = await client.post(path, json=body)
                assert answer.status_code == 200, answer.text
                return time.monotonic() - started

            batches = [asyncio.create_task(timed("/generate", BATCH)) for _ in range(BATCHES)]
            while server.metrics()["penwright_requests_running"] < 32:
                await asyncio.sleep(0.05)
            found: dict[str, list[float]] = {path: [] for path, _ in SHORT}
            for number in range(SHORTS):
                path, body = SHORT[number % len(SHORT)]
                found[path].append(await timed(path, body))
                assert not all(batch.done() for batch in batches), "the load ended too early"
            return [await batch for batch in batches], found

    with running(tmp_path, "--max-waiting", "512", "--log-level", "warning") as server:
        batches, found = asyncio.run(ask(server))
        server.assert_idle()
        for path, seconds in found.items():
            p50, p95 = percentile(seconds, 50), percentile(seconds, 95)
            print(f"\n{path}: p50 {p50:.3f} s, p95 {p95:.3f} s, most {max(seconds):.3f} s")  # noqa: T201
        print(f"batches: {[round(seconds, 1) for seconds in batches]} s")  # noqa: T201
        # None of them waited for a batch.
        assert max(max(seconds) for seconds in found.values()) < min(batches) / 2
        assert server.metrics()["penwright_preemptions_total"] == 0


# The largest of each kind that is within the limits, or near them.
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": ("/v1/embeddings", {"model": "base", "input": ["the old man"] * 2048}),
    "log-probabilities": (
        "/generate",
        {"prompt": ["a"] * 64, "max_new_tokens": 200, "ignore_eos": True, "logprobs": 20},
    ),
    "labels": ("/classify", {"text": ["win a prize now " * 20] * 64}),
    "reasons": ("/classify", {"text": ["win a prize now " * 10] * 8, "explain": True}),
    "tokens": ("/tokenize", {"text": "the old man and the sea " * 40_000}),
    "texts": ("/generate", {"prompt": ["the sea " * 100] * 64, "max_new_tokens": 2}),
    "description": ("/openapi.json", {}),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_request_stops_the_event_loop_for_long(name: str, tmp_path: Path) -> None:
    """asyncio itself says which callback took longer than a tenth of a second, in its debug mode,
    which makes all of it slower; beside it another client asks how the service is."""
    path, body = LARGE[name]
    if path.startswith("/v1"):
        base = json.loads((SCRATCH / "models.json").read_text())["generate"]
        body = {**body, "model": Path(base).name}
    waits: list[float] = []

    async def ask(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:

            async def look(until: asyncio.Task[httpx.Response]) -> None:
                while not until.done():
                    started = time.monotonic()
                    assert (await client.get("/healthz")).status_code == 200
                    waits.append(time.monotonic() - started)
                    await asyncio.sleep(0.002)

            sent = client.post(path, json=body) if body else client.get(path)
            large = asyncio.create_task(sent)
            await look(large)
            assert large.result().status_code == 200, large.result().text[:300]

    with running(tmp_path, "--log-level", "warning", PYTHONASYNCIODEBUG="1") as server:
        asyncio.run(ask(server.url))
        log = server.log.read_text()
    stalls = [float(found) for found in re.findall(r"took (\d+\.\d+) seconds", log)]
    most = max(stalls, default=0.0)
    print(  # noqa: T201
        f"\n{name}: callbacks over 0.1 s {len(stalls)}, the longest {most:.3f} s; /healthz p99 "
        f"{percentile(waits, 99):.3f} s, most {max(waits):.3f} s, n={len(waits)}"
    )
    assert most < 0.3
