"""Long load: many requests of all kinds, many clients that vanish, many that do not read."""

import asyncio
import random
import time
from pathlib import Path

import httpx
import pytest

from tests.app.wire import closed, connect, post

from .load import drive, vanish
from .server import running

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

CALLS, WARM_UP, CLIENTS = 10_000, 2_000, 64
VANISHING, AT_ONCE = 500, 50


def test_ten_thousand_mixed_requests(tmp_path: Path) -> None:
    # A queue that is too short for 64 clients with their batches, so that some get a 429.
    with running(tmp_path, "--max-waiting", "64", "--log-level", "warning") as server:
        warm = asyncio.run(drive(server.url, WARM_UP, CLIENTS, seed=1))
        server.assert_idle()
        before, counted = server.figures(), server.requests()
        started = time.monotonic()
        tally = asyncio.run(drive(server.url, CALLS - WARM_UP, CLIENTS, seed=2))
        seconds = time.monotonic() - started
        server.assert_idle()
        after, metrics = server.figures(), server.metrics()
        new = {key: count - counted.get(key, 0) for key, count in server.requests().items()}
        print(f"\n{CALLS - WARM_UP} calls in {seconds:.0f} s: {dict(tally.kinds)}")  # noqa: T201
        print(f"{dict(tally.answers)}, left: {dict(tally.left)}")  # noqa: T201
        print(f"warm: {before}\nend:  {after}")  # noqa: T201

        assert not warm.errors
        assert not tally.errors
        assert warm.answers["/generate", 429] + tally.answers["/generate", 429] > 0
        assert sum(tally.left.values()) > 100
        # Every call is counted where it belongs; of those that left early, some were answered.
        new["/classify", 200] -= 1  # by assert_idle
        for (path, status), count in tally.answers.items():
            assert count <= new[path, status] <= count + tally.left[path], (path, status)
        for path in ("/generate", "/classify", "/instruct", "/tokenize"):
            made = sum(count for (of, _), count in tally.answers.items() if of == path)
            counts = sum(count for (of, _), count in new.items() if of == path)
            # Who leaves before the headers are sent is not seen.
            assert made <= counts <= made + tally.left[path], path
        assert not [key for key, count in new.items() if key[1] >= 500 and count]
        assert metrics["penwright_requests_running"] == metrics["penwright_requests_waiting"] == 0

        assert after.memory - before.memory < max(20, 0.05 * before.memory)
        assert after.threads <= before.threads + 4  # of asyncio, which start when they are needed
        assert after.files <= before.files + 2
        assert "Traceback" not in server.log.read_text()


def test_clients_that_vanish_at_random_moments(tmp_path: Path) -> None:
    async def crowd(url: str) -> None:
        draw = random.Random(3)
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, own: random.Random) -> None:
            async with gate:
                await vanish(url, number, own)

        await asyncio.gather(*(one(n, random.Random(draw.random())) for n in range(VANISHING)))

    with running(tmp_path, "--slots", "8", "--log-level", "warning") as server:
        server.assert_idle()
        before = server.figures()
        asyncio.run(crowd(server.url))
        server.assert_idle()
        after = server.figures()
        counted = {k: n for k, n in server.requests().items() if k[0] != "/readyz"}
        print(f"\n{before}\n{after}\n{counted}")  # noqa: T201
        assert sum(count for (_, status), count in counted.items() if status == 499) > 200
        # A half-sent body is no wrong one.
        assert {status for _, status in counted} <= {200, 429, 499}
        assert after.files <= before.files + 2
        assert "Traceback" not in server.log.read_text()


def test_clients_that_do_not_read(tmp_path: Path) -> None:
    body = {"prompt": "a", "max_new_tokens": 250, "ignore_eos": True, "stream": True}
    body |= {"logprobs": 20, "n": 32}  # some 16 MB an answer, of which the kernel takes a part
    with running(tmp_path, "--send-timeout", "2", "--log-level", "warning") as server:
        server.assert_idle()
        before = server.figures()
        crowd = [connect(server.url, receive_buffer=2048) for _ in range(6)]
        for connection in crowd:
            connection.sendall(post("/generate", body))
        most, started = 0.0, time.monotonic()
        while server.figures().files > before.files:
            most = max(most, server.figures().memory)
            answer = httpx.post(f"{server.url}/classify", json={"text": "ok"}, timeout=60)
            assert answer.status_code == 200
            assert time.monotonic() - started < 300, "connections stay"
        server.assert_idle()
        print(f"\n{before}\nat most {most:.0f} MB\n{server.figures()}")  # noqa: T201
        assert most < before.memory + 150
        for connection in crowd:
            assert closed(connection)
            connection.close()


def test_a_thousand_connections_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "--log-level", "warning") as server:
        before = server.figures()
        crowd = [connect(server.url) for _ in range(1000)]
        for connection in crowd[::2]:
            connection.sendall(b"POST /generate HTTP/1.1\r\nHost: here\r\nContent-Le")
        assert httpx.post(f"{server.url}/classify", json={"text": "ok"}).status_code == 200
        for number, connection in enumerate(crowd):
            connection.settimeout(60)
            get = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
            rest = get if number % 2 else b"ngth: 2\r\n\r\n{}"
            connection.sendall(rest)
        statuses = sorted({connection.recv(12) for connection in crowd})
        assert statuses == [b"HTTP/1.1 200", b"HTTP/1.1 422"]
        for connection in crowd:
            connection.close()
        server.assert_idle()
        deadline = time.monotonic() + 20
        while server.figures().files > before.files + 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
