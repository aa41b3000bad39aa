"""From start to end: loading, ready, failing, draining; and the program around it."""

import concurrent.futures
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine import loading, service

from .conftest import CONTEXT, environment, free_port, process, serve, until_ready

LONG = {"prompt": "a", "max_new_tokens": CONTEXT - 1, "ignore_eos": True}


def test_while_loading_it_lives_but_is_not_ready(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    original = loading.load_base

    def slow(*args: Any, **settings: Any) -> Any:
        go.wait(10)
        return original(*args, **settings)

    monkeypatch.setattr(loading, "load_base", slow)
    with serve(models=checkpoints, ready=False) as live:
        assert live.client.get("/healthz").status_code == 200
        for answer in (
            live.client.get("/readyz"),
            live.client.get("/models"),
            live.client.post("/generate", json={"prompt": "a"}),
            live.client.post("/tokenize", json={"text": "a"}),
        ):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"].endswith(":loading")
            assert "retry-after" in answer.headers
        go.set()
        live.wait(lambda: live.client.get("/readyz").status_code == 200)
        assert live.client.get("/readyz").json()["models"] == ["base", "spam", "instruct"]


def test_a_checkpoint_that_answers_otherwise_than_its_card_is_not_served(
    checkpoints: Path, tmp_path: Path
) -> None:
    altered = tmp_path / "models"
    shutil.copytree(checkpoints, altered)
    card = json.loads((altered / "base" / "card.json").read_text())
    card["golden"][0]["logprobs"][0] -= 0.5
    (altered / "base" / "card.json").write_text(json.dumps(card))
    with serve(models=altered, ready=False) as live:
        live.wait(lambda: live.service.state == "failed")
        answer = live.client.get("/readyz")
        assert answer.status_code == 503
        assert "differs from its card's" in answer.json()["detail"]
        assert live.client.get("/healthz").status_code == 200
        assert live.client.post("/generate", json={"prompt": "a"}).status_code == 503


def test_what_nobody_foresaw_at_loading_names_the_checkpoint(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("surprise\nand a second line")

    monkeypatch.setattr(loading, "load_adapter", fail)
    with serve(models=checkpoints, ready=False) as live:
        live.wait(lambda: live.service.state == "failed")
        detail = live.client.get("/readyz").json()["detail"]
        assert f"{checkpoints / 'spam'}: cannot be used: KeyError: 'surprise" in detail
        assert "\n" not in detail
    [record] = [r for r in caplog.records if r.levelname == "ERROR"]
    assert not record.exc_info


def test_a_card_without_the_usual_fields_is_still_described(
    checkpoints: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "base"
    shutil.copytree(checkpoints / "base", changed)
    original = json.loads((changed / "card.json").read_text())
    cards: list[dict[str, Any]] = [
        {"golden": original["golden"], "files": original["files"]},
        {**original, "metrics": None},
        {**original, "metrics": [1]},
        {**original, "metrics": {"f1": float("nan")}},
    ]
    for card in cards:
        (changed / "card.json").write_text(json.dumps(card))
        with serve(base=changed) as live:
            answer = live.client.get("/models")
            assert answer.status_code == 200, answer.text
            assert answer.json()["models"][0]["metrics"] in ({}, {"f1": None})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_not_ready(checkpoints: Path) -> None:
    with serve(models=checkpoints) as live:
        assert live.client.get("/readyz").status_code == 200
        [engine_client] = live.service.engine_clients()

        def die() -> None:
            raise SystemExit

        engine_client.engine._errands.put(die)
        live.wait(lambda: not engine_client.engine.alive)
        answer = live.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["type"].endswith(":engine-dead")
        assert live.client.get("/healthz").status_code == 200
        assert live.client.post("/generate", json={"prompt": "a"}).status_code == 503


def test_a_stuck_engine_is_not_ready(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.service.PROBE_SECONDS", 0.2)
    with serve(models=checkpoints) as live:
        [engine_client] = live.service.engine_clients()
        go = threading.Event()
        engine_client.engine._errands.put(lambda: go.wait(10) and None)
        answer = live.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["type"].endswith(":engine-stuck")
        go.set()
        live.wait(lambda: live.client.get("/readyz").status_code == 200)


def test_an_engine_that_is_emptied_without_a_step_is_ready(checkpoints: Path) -> None:
    with (
        serve(models=checkpoints, slots=1) as live,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        [engine_client] = live.service.engine_clients()
        blocked, go = threading.Event(), threading.Event()

        def block() -> None:
            blocked.set()
            go.wait(10)

        with live.client.stream("POST", "/generate", json={**LONG, "stream": True}):
            # Some of the answer lies unread when the client goes, so that the service sees it go.
            steps = engine_client.stats().steps
            live.wait(lambda: engine_client.stats().steps > steps + 50)
            engine_client.engine._errands.put(block)
            assert blocked.wait(10)
            asked = pool.submit(httpx.get, f"{live.url}/readyz", timeout=30)
            # It has seen a busy engine, and now all that the engine has is cancelled.
            live.wait(
                lambda: engine_client._turning is not None and not engine_client._turning.done()
            )
            time.sleep(0.1)
        live.wait(lambda: not engine_client._submitted)
        go.set()
        started = time.monotonic()
        assert asked.result().status_code == 200
        assert time.monotonic() - started < service.PROBE_SECONDS / 2


def test_a_busy_engine_is_ready(checkpoints: Path) -> None:
    with (
        serve(models=checkpoints, slots=1) as live,
        live.client.stream("POST", "/generate", json={**LONG, "stream": True}),
    ):
        live.wait(lambda: live.running() == 1)
        assert httpx.get(f"{live.url}/readyz").status_code == 200
        assert live.running() == 1


# ---- the program ----


def test_on_sigterm_running_requests_finish_and_new_ones_get_503(checkpoints: Path) -> None:
    with (
        process("--models", str(checkpoints), "--log-level", "warning") as (started, url),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        until_ready(started, url)
        whole = {**LONG, "max_new_tokens": 1500, "seed": 2}
        waiting = pool.submit(httpx.post, f"{url}/generate", json=whole, timeout=60)
        body = {**LONG, "max_new_tokens": 2500, "stream": True, "seed": 1}
        with httpx.stream("POST", f"{url}/generate", json=body, timeout=60) as running:
            assert running.status_code == 200
            while "penwright_requests_running 2.0" not in httpx.get(f"{url}/metrics").text:
                assert not waiting.done()
            started.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            refused = httpx.post(f"{url}/generate", json={"prompt": "a"})
            assert refused.status_code == 503
            assert refused.json()["type"].endswith(":draining")
            assert httpx.get(f"{url}/readyz").status_code == 503
            assert httpx.get(f"{url}/healthz").status_code == 200
            text = running.read().decode()
        assert text.endswith("data: [DONE]\n\n")
        assert '"completion_tokens":2500' in text
        answer = waiting.result()
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 1500
        assert started.wait(10) == 0


def test_it_goes_on_refusing_until_load_balancers_know(checkpoints: Path) -> None:
    with process("--models", str(checkpoints), "--drain-delay", "2") as (started, url):
        until_ready(started, url)
        started.send_signal(signal.SIGTERM)
        time.sleep(0.8)
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert started.wait(20) == 0


def test_what_does_not_finish_in_time_ends_with_an_error_event(checkpoints: Path) -> None:
    flags = ("--models", str(checkpoints), "--drain-timeout", "0.3", "--log-level", "warning")
    with process(*flags) as (started, url):
        until_ready(started, url)
        body = {**LONG, "stream": True}
        with httpx.stream("POST", f"{url}/generate", json=body, timeout=60) as running:
            assert running.status_code == 200
            started.send_signal(signal.SIGTERM)
            text = running.read().decode()
        assert "event: error" in text
        assert '"status":503' in text
        assert started.wait(10) == 0


def test_a_load_failure_ends_the_process_with_1_and_one_line(
    checkpoints: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "models"
    shutil.copytree(checkpoints, broken)
    weights = broken / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with process("--models", str(broken), "--log-level", "error") as (started, _):
        assert started.wait(60) == 1
        assert started.stderr is not None
        lines = started.stderr.read().splitlines()
    assert lines[-1].startswith("penwright-serve: ")
    assert "model.safetensors" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_malformed_card_ends_the_process_with_1_and_names_the_checkpoint(
    checkpoints: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "models"
    shutil.copytree(checkpoints, broken)
    card = json.loads((broken / "base" / "card.json").read_text())
    del card["golden"][1]["tokens"]
    (broken / "base" / "card.json").write_text(json.dumps(card))
    with process("--models", str(broken)) as (started, _):
        assert started.wait(60) == 1
        assert started.stderr is not None
        text = started.stderr.read()
    assert text.splitlines()[-1] == (
        f"penwright-serve: {broken / 'base'}: golden output 1 of its card has no list of tokens"
    )
    assert "Traceback" not in text


def test_a_port_in_use_ends_the_process_with_1(checkpoints: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with process("--models", str(checkpoints), "--port", port) as (started, _):
            assert started.wait(60) == 1
            assert started.stderr is not None
            text = started.stderr.read()
    assert f"--port {port}: cannot listen" in text.splitlines()[-1]
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--port", "99999"], "--port (PENWRIGHT_PORT) is '99999'"),
        (["--device", "tpu"], "--device (PENWRIGHT_DEVICE) is 'tpu'"),
        (["--models", "nowhere"], "--models is 'nowhere': there is no such directory"),
        (["--base", ".", "--models", "."], "exclude each other"),
        (["--classify", "."], "--classify needs --base"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_flags_end_the_process_with_2_and_a_line(flags: list[str], part: str) -> None:
    command = [sys.executable, "-m", "app.cli", *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert part in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_it_ends_well_whatever_streams_it_was_started_without(
    checkpoints: Path, closed: str
) -> None:
    port = free_port()
    flags = f"--port {port} --threads 1 --models {shlex.quote(str(checkpoints))}"
    command = f"exec {shlex.quote(sys.executable)} -m app.cli {flags} {closed}"
    started = subprocess.Popen(["/bin/sh", "-c", command], env=environment())
    try:
        until_ready(started, f"http://127.0.0.1:{port}")
        started.terminate()
        assert started.wait(60) == 0
    finally:
        started.kill()
        started.wait()
