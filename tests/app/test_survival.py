"""Faults around the engine: memory that is short, a clock that jumps, logs that cannot be written,
signals at the wrong moment. The long forms are in tests/soak.
"""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import CONTEXT, environment, free_port, process, serve, until_ready
from .wire import connect, post, reset

LONG = {"prompt": "a", "max_new_tokens": CONTEXT - 1, "ignore_eos": True}
SHORT = {"prompt": "The sea", "max_new_tokens": 8, "seed": 1}


# ---- signals ----


@pytest.mark.soak
def test_a_signal_while_loading_ends_the_process(checkpoints: Path, tmp_path: Path) -> None:
    loading = tmp_path / "loading"
    program = """
import pathlib, sys, time
from app.engine import loading
from app.cli import main
def load_base(*_, **__):
    pathlib.Path({loading!r}).touch()
    time.sleep(100)
loading.load_base = load_base
sys.exit(main())
"""
    for signals in (1, 2):
        loading.unlink(missing_ok=True)
        flags = ("--models", str(checkpoints), "--log-level", "error")
        with process(*flags, program=("-c", program.format(loading=str(loading)))) as (started, _):
            while not loading.exists():
                assert started.poll() is None
                time.sleep(0.02)
            began = time.monotonic()
            for _ in range(signals):
                started.send_signal(signal.SIGTERM)
                time.sleep(0.3)
            assert started.wait(10) == 0
            assert time.monotonic() - began < 7


@pytest.mark.soak
def test_a_second_signal_ends_it_at_once(checkpoints: Path) -> None:
    with process("--models", str(checkpoints), "--log-level", "error") as (started, url):
        until_ready(started, url)
        with httpx.stream("POST", f"{url}/generate", json={**LONG, "stream": True}) as stream:
            assert stream.status_code == 200
            started.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert started.poll() is None
            began = time.monotonic()
            started.send_signal(signal.SIGTERM)
            started.wait(10)
            assert time.monotonic() - began < 15  # far from the time to drain
            with pytest.raises(httpx.RemoteProtocolError):
                stream.read()


@pytest.mark.soak
def test_after_a_kill_the_next_start_on_the_port_is_clean(checkpoints: Path) -> None:
    flags = ("--models", str(checkpoints), "--log-level", "error")
    with process(*flags) as (started, url):
        until_ready(started, url)
        taken = [connect(url) for _ in range(3)]
        for connection in taken:
            connection.sendall(post("/generate", {**LONG, "stream": True}))
            assert connection.recv(10)
        started.kill()
        assert started.wait(10) == -signal.SIGKILL
        for connection in taken:
            connection.close()
        port = str(httpx.URL(url).port)
        with process(*flags, "--port", port) as (again, _):
            until_ready(again, url)
            assert httpx.post(f"{url}/generate", json=SHORT).status_code == 200
            again.send_signal(signal.SIGTERM)
            assert again.wait(10) == 0


# ---- memory ----


@pytest.mark.soak
def test_sequences_that_the_cache_has_no_room_for_give_the_same(checkpoints: Path) -> None:
    bodies = [{**LONG, "prompt": f"{i} men", "max_new_tokens": 1000, "seed": i} for i in range(12)]
    with serve(models=checkpoints, cache_mb=1, slots=12, reuse_prefixes=False) as live:

        def call(body: dict[str, Any]) -> Any:
            answer = httpx.post(f"{live.url}/generate", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"]

        alone = [call(body) for body in bodies[:2]]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            together = list(pool.map(call, bodies))
        assert together[:2] == alone
        [engine_client] = live.service.engine_clients()
        assert engine_client.stats().preemptions > 0
        live.wait_until_idle()


@pytest.mark.soak
def test_too_little_memory_for_the_models_ends_with_1_and_a_line(tmp_path: Path) -> None:
    program = """
import resource, sys
from app.cli import main
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (700 << 20), -1))
sys.exit(main())
"""
    flags = ("--cache-mb", "4000", "--log-level", "error")
    with process(*flags, program=("-c", program)) as (started, _):
        assert started.wait(60) == 1
        assert started.stderr is not None
        text = started.stderr.read()
    assert text.splitlines()[-1].startswith("penwright-serve: ")
    assert "memory" in text.splitlines()[-1]
    assert "Traceback" not in text


# ---- the clock, the log, and more at once than can be ----


def test_a_clock_that_jumps_changes_nothing(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = 0.0
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    with (
        serve(models=checkpoints, request_timeout=5, slots=2) as live,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        right = live.client.post("/generate", json=SHORT).json()["choices"]
        for jump in (86_400.0, -1e9, 4e9):
            body = {**LONG, "max_new_tokens": 300}
            whole = pool.submit(httpx.post, f"{live.url}/generate", json=body, timeout=30)
            live.wait(lambda: live.running() == 1)
            offset = jump
            assert whole.result().status_code == 200
            assert live.client.get("/readyz").status_code == 200
            assert live.client.post("/generate", json=SHORT).json()["choices"] == right
        assert "penwright_request" in live.client.get("/metrics").text


@pytest.mark.parametrize("kind", ["full", pytest.param("closed", marks=pytest.mark.soak)])
def test_a_log_that_cannot_be_written_stops_nobody(checkpoints: Path, kind: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app.cli", "--port", str(port), "--threads", "1"]
    command += ["--models", str(checkpoints), "--log-level", "debug"]
    if kind == "full":
        to = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, to = os.pipe()
        os.close(reader)
    started = subprocess.Popen(command, env=environment(), stderr=to)
    os.close(to)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert started.poll() is None
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        with httpx.Client(base_url=url) as client:
            for _ in range(100):
                assert client.post("/classify", json={"text": "a"}).status_code == 200
                assert client.get("/nowhere").status_code == 404
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
    finally:
        started.kill()
        started.wait()


def test_a_flood_that_leaves_the_queue_leaves_nothing(checkpoints: Path) -> None:
    with serve(models=checkpoints, slots=2, max_waiting=64) as live:
        for _ in range(4):
            connections = [connect(live.url) for _ in range(60)]
            for connection in connections:
                connection.sendall(post("/generate", LONG))
            live.wait(lambda: live.waiting() > 10)
            for connection in connections:
                reset(connection)
        live.wait_until_idle()
        assert live.client.post("/generate", json=SHORT).status_code == 200


def test_a_storm_of_deadlines_leaves_nothing(checkpoints: Path) -> None:
    with (
        serve(models=checkpoints, slots=4, request_timeout=0.1) as live,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
        httpx.Client(base_url=live.url, timeout=30) as client,
    ):

        def call(number: int) -> tuple[int, str]:
            body = {**LONG, "max_new_tokens": 2000 if number % 2 else 1, "stream": number % 4 == 1}
            answer = client.post("/generate", json=body)
            return answer.status_code, answer.text

        answers = list(pool.map(call, range(120)))
        for number, (status, text) in enumerate(answers):
            if number % 4 == 1 and status == 200:
                assert '"status":504' in text
            elif number % 2:
                assert status == 504
            else:
                assert status in (200, 504)
        live.wait_until_idle()


@pytest.mark.soak
def test_more_connections_than_files_may_be_open(checkpoints: Path) -> None:
    program = """
import resource, sys
from app.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.exit(main())
"""
    flags = ("--models", str(checkpoints), "--log-level", "error")
    with process(*flags, program=("-c", program)) as (started, url):
        until_ready(started, url)
        with httpx.Client(base_url=url) as client:
            assert client.get("/healthz").status_code == 200
            crowd = [connect(url) for _ in range(150)]
            for _ in range(10):
                assert client.post("/generate", json=SHORT).status_code == 200
            for connection in crowd:
                connection.close()
            time.sleep(0.2)
        assert httpx.get(f"{url}/readyz").status_code == 200
