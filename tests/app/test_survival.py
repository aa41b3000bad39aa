"""Faults: a step that fails, an engine that dies or hangs, memory that is short, a clock that
jumps, logs that cannot be written, signals at the wrong moment. The long forms are in tests/soak.
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

from model.engine.runner import Runner

from .conftest import CONTEXT, Live, environment, events, free_port, process, serve, until_ready
from .wire import connect, post, reset

LONG = {"prompt": "a", "max_new_tokens": CONTEXT - 1, "ignore_eos": True}
SHORT = {"prompt": "The sea", "max_new_tokens": 8, "seed": 1}


def idle(live: Live) -> None:
    """Wait until nothing is left of any request."""
    [dispatcher] = live.service._dispatchers()
    live.wait(lambda: live.running() == 0 and live.waiting() == 0)
    live.wait(lambda: dispatcher.stats().free_blocks == dispatcher.stats().blocks)
    live.wait(lambda: live.service.in_flight == 0)
    assert not dispatcher._jobs


def wait_for(url: str, **numbers: int) -> None:
    """Wait until as many requests are running, or waiting."""
    deadline = time.monotonic() + 10
    for name, number in numbers.items():
        while f"penwright_requests_{name} {number}.0" not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)


# ---- a step fails ----


class Faulty:
    """A runner that raises once, when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: BaseException | None = None
        original = Runner.run

        def run(runner: Runner, chunks: Any) -> Any:
            error, self.error = self.error, None
            output = original(runner, chunks)
            if error is not None:
                raise error
            return output

        monkeypatch.setattr(Runner, "run", run)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_failing_step_takes_only_its_own_requests(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    faulty = Faulty(monkeypatch)
    with (
        serve(models=checkpoints, slots=2) as live,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        right = live.client.post("/generate", json=SHORT).json()["choices"]

        def call(body: dict[str, Any]) -> httpx.Response:
            return httpx.post(f"{live.url}/generate", json=body, timeout=30)

        with httpx.stream("POST", f"{live.url}/generate", json={**LONG, "stream": True}) as stream:
            whole = pool.submit(call, LONG)
            live.wait(lambda: live.running() == 2)
            waiting = pool.submit(call, SHORT)
            live.wait(lambda: live.waiting() == 1)
            faulty.error = error
            last = events(stream)[-1]
        assert last[0] == "error"
        for problem in (last[1], whole.result().json()):
            assert problem["status"] == 500
            assert type(error).__name__ in problem["detail"]
        assert whole.result().status_code == 500
        assert waiting.result().json()["choices"] == right
        assert live.client.post("/generate", json=SHORT).json()["choices"] == right
        idle(live)
        assert live.client.get("/readyz").status_code == 200


def test_an_engine_whose_every_step_fails_gives_up(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(runner: Runner, chunks: Any) -> Any:
        raise RuntimeError("the device is lost")

    with serve(models=checkpoints) as live:
        monkeypatch.setattr(Runner, "run", run)
        statuses = [live.client.post("/generate", json=SHORT).status_code for _ in range(9)]
        assert statuses == [500] * 9
        monkeypatch.undo()
        # So few are not given up for.
        assert live.client.post("/generate", json=SHORT).status_code == 200
        monkeypatch.setattr(Runner, "run", run)
        statuses = [live.client.post("/generate", json=SHORT).status_code for _ in range(12)]
        assert statuses[:9] == [500] * 9
        assert statuses[-1] == 503
        live.wait(lambda: live.service.failure is not None)
        assert live.client.get("/readyz").json()["type"].endswith(":engine-dead")


# ---- an engine dies or hangs ----

# On SIGUSR1, the next step does not return as it should.
FAULT = """
import signal, sys, time
from app.cli import main
from model.engine.runner import Runner

def fail(): {fault}

faults, original = [], Runner.run
signal.signal(signal.SIGUSR1, lambda *_: faults.append(fail))
def run(runner, chunks):
    if faults:
        faults[0]()
    return original(runner, chunks)
Runner.run = run
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise SystemExit", "thread has ended"),
        pytest.param("time.sleep(100)", "no step within 0.5 seconds", marks=pytest.mark.soak),
        ("exec('while True: pass')", "no step within 0.5 seconds"),
    ],
)
def test_the_process_ends_with_1_when_its_engine_is_lost(
    checkpoints: Path, fault: str, reason: str
) -> None:
    program = ("-c", FAULT.format(fault=fault))
    flags = ("--models", str(checkpoints), "--slots", "2", "--stuck-timeout", "0.5")
    with (
        process(*flags, "--log-level", "error", program=program) as (started, url),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        until_ready(started, url)
        with httpx.stream("POST", f"{url}/generate", json={**LONG, "stream": True}) as stream:
            assert stream.status_code == 200
            whole = pool.submit(httpx.post, f"{url}/generate", json=LONG, timeout=30)
            wait_for(url, running=2)
            waiting = pool.submit(httpx.post, f"{url}/generate", json=SHORT, timeout=30)
            wait_for(url, waiting=1)
            began = time.monotonic()
            started.send_signal(signal.SIGUSR1)
            name, problem = events(stream)[-1]
            ready = httpx.get(f"{url}/readyz")
            refused = httpx.post(f"{url}/generate", json=SHORT)
        assert name == "error"
        assert problem["status"] == 500
        assert "the engine" in problem["detail"]
        assert ready.status_code == refused.status_code == 503
        assert ready.json()["type"].endswith(":engine-dead")
        assert reason in ready.json()["detail"]
        for answer in (whole.result(), waiting.result()):
            assert answer.status_code in (500, 503)
            assert "the engine" in answer.json()["detail"]
        assert started.wait(15) == 1
        assert time.monotonic() - began < 15
        assert started.stderr is not None
        assert reason in started.stderr.read().splitlines()[-1]


# ---- signals ----


@pytest.mark.soak
def test_a_signal_while_loading_ends_the_process(checkpoints: Path, tmp_path: Path) -> None:
    loading = tmp_path / "loading"
    program = """
import pathlib, sys, time
from app import loading
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
        [dispatcher] = live.service._dispatchers()
        assert dispatcher.stats().preemptions > 0
        idle(live)


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
        idle(live)
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
        idle(live)


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
