"""An engine whose step fails, that dies, or that hangs. The long forms are in tests/soak."""

import concurrent.futures
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.engine.runner import Runner

from .conftest import CONTEXT, events, process, serve, until_ready

LONG = {"prompt": "a", "max_new_tokens": CONTEXT - 1, "ignore_eos": True}
SHORT = {"prompt": "The sea", "max_new_tokens": 8, "seed": 1}


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
        body = {**LONG, "max_new_tokens": 1500, "temperature": 0}
        text = live.client.post("/generate", json=body).json()["choices"][0]["text"]

        def call(body: dict[str, Any]) -> httpx.Response:
            return httpx.post(f"{live.url}/generate", json=body, timeout=60)

        # Three take turns at two slots: at each step, one of them has no part in it.
        with httpx.stream("POST", f"{live.url}/generate", json={**body, "stream": True}) as stream:
            others = [pool.submit(call, body) for _ in range(2)]
            live.wait(lambda: live.running() == 2 and live.waiting() == 1)
            faulty.error = error
            found = events(stream)
        problems = [other.result().json() for other in others if other.result().status_code == 500]
        if found[-1][0] == "error":
            problems.append(found[-1][1])
        assert len(problems) == 2
        for problem in problems:
            assert problem["status"] == 500
            assert type(error).__name__ in problem["detail"]
        texts = [
            other.result().json()["choices"][0]["text"]
            for other in others
            if other.result().is_success
        ]
        if found[-1][0] != "error":
            texts.append("".join(data["text"] for _, data in found if data != "[DONE]"))
        assert texts == [text]
        assert live.client.post("/generate", json=SHORT).json()["choices"] == right
        live.wait_until_idle()
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
            waiting = pool.submit(httpx.post, f"{url}/generate", json=LONG, timeout=30)
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
