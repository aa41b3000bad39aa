"""Clients that go away, queues that are full, time that runs out."""

import concurrent.futures
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import CONTEXT, Live, serve
from .wire import connect, get, post, read_answer

LONG = {"prompt": "a", "max_new_tokens": CONTEXT - 1, "ignore_eos": True}


@pytest.fixture
def small(checkpoints: Path) -> Iterator[Live]:
    """A service of two slots and two places in the queue."""
    with serve(models=checkpoints, slots=2, max_waiting=2, max_batch=2, step_tokens=16) as live:
        yield live


def send(
    live: Live, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> socket.socket:
    """Send a request and leave the answer unread."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head += f"Content-Length: {len(content)}\r\n\r\n"
    address = httpx.URL(live.url)
    connection = socket.create_connection((address.host, address.port))
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(small: Live, stream: bool) -> None:
    connection = send(small, "/generate", {**LONG, "stream": stream})
    small.wait(lambda: small.running() == 1)
    if stream:
        assert b"200 OK" in connection.recv(100)
    started = time.monotonic()
    connection.close()
    small.wait(lambda: small.running() == 0)
    # Far from the seconds that the whole request takes.
    assert time.monotonic() - started < 1
    small.wait(lambda: small.service.in_flight == 0)
    assert not small.service.engine_clients()[0]._submitted
    metrics = small.client.get("/metrics").text
    assert 'penwright_requests_total{key="",route="/generate",status="499"} 1.0' in metrics


ASK = {"prompt": "a", "max_new_tokens": 300, "ignore_eos": True}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_only_stops_sending_gets_its_answer(
    small: Live, stream: bool, version: str
) -> None:
    request = post("/generate", {**ASK, "stream": stream}).replace(b"/1.1", f"/{version}".encode())
    for pause in (0.0, 0.1):  # with the request, and while it is answered
        with connect(small.url) as connection:
            connection.settimeout(60)
            connection.sendall(request)
            time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
            status, _, body = read_answer(connection)
            assert status == 200
            assert b'"completion_tokens":300' in body
            assert connection.recv(1) == b""
    with connect(small.url) as connection:
        connection.sendall(get("/healthz"))
        connection.shutdown(socket.SHUT_WR)
        status, _, body = read_answer(connection)
        assert (status, body) == (200, b'{"status":"alive"}')
        assert connection.recv(1) == b""


def test_requests_sent_ahead_are_answered_to_a_client_that_stops_sending(small: Live) -> None:
    with connect(small.url) as connection:
        connection.settimeout(60)
        connection.sendall(post("/generate", ASK))
        small.wait(lambda: small.running() == 1)
        connection.sendall(get("/healthz"))
        connection.shutdown(socket.SHUT_WR)
        assert b'"completion_tokens":300' in read_answer(connection)[2]
        assert read_answer(connection)[2] == b'{"status":"alive"}'
        assert connection.recv(1) == b""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_stops_sending_and_then_leaves_is_noticed(
    small: Live, stream: bool, version: str
) -> None:
    request = post("/generate", {**LONG, "stream": stream}).replace(b"/1.1", f"/{version}".encode())
    connection = connect(small.url)
    connection.sendall(request)
    small.wait(lambda: small.running() == 1)
    connection.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    assert small.running() == 1
    connection.close()
    small.wait(lambda: small.running() == 0, 2)
    small.wait(lambda: small.service.in_flight == 0)


def test_a_client_that_leaves_in_prefill_or_in_the_queue_frees_its_place(small: Live) -> None:
    # 4,000 tokens in steps of 16: the first token is far away.
    prompts = ["a" * 4000, "b" * 4000]
    connections = [send(small, "/generate", {"prompt": p, "max_new_tokens": 2}) for p in prompts]
    small.wait(lambda: small.running() == 2)
    connections.append(send(small, "/generate", {"prompt": "c" * 4000, "max_new_tokens": 2}))
    small.wait(lambda: small.running() == 2 and small.waiting() == 1)
    for connection in connections:
        connection.close()
    small.wait(lambda: small.running() == 0 and small.waiting() == 0, 1)
    assert not small.service.engine_clients()[0]._submitted


def test_what_needs_no_slot_goes_with_the_client(small: Live) -> None:
    bodies = {"/generate": {"prompt": "a" * 4000, "max_new_tokens": 1}}
    bodies |= {"/classify": {"text": "b" * 4000}}
    connections = [send(small, path, body) for path, body in bodies.items()]
    small.wait(lambda: small.running() == 2)
    for connection in connections:
        connection.close()
    small.wait(lambda: small.running() == 0 and small.waiting() == 0, 1)
    assert not small.service.engine_clients()[0]._submitted


def test_all_choices_go_with_the_client(small: Live) -> None:
    connection = send(small, "/generate", {**LONG, "n": 2})
    small.wait(lambda: small.running() == 2)
    connection.close()
    small.wait(lambda: small.running() == 0, 1)


def test_a_full_queue_refuses_and_later_takes_again(small: Live) -> None:
    connections = [send(small, "/generate", LONG) for _ in range(2)]
    small.wait(lambda: small.running() == 2)
    connections += [send(small, "/generate", LONG) for _ in range(2)]
    small.wait(lambda: small.waiting() == 2)
    for path, body in (
        ("/generate", {"prompt": "a"}),
        ("/generate", {"prompt": "a", "stream": True}),
        ("/instruct", {"instruction": "a"}),
        ("/classify", {"text": "a"}),
    ):
        answer = small.client.post(path, json=body)
        assert answer.status_code == 429, path
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["type"].endswith(":queue-full")
    # A full queue is no fault of the service.
    assert small.client.get("/readyz").status_code == 200
    metrics = small.client.get("/metrics").text
    assert "penwright_requests_running 2.0" in metrics
    assert "penwright_requests_waiting 2.0" in metrics
    for connection in connections:
        connection.close()
    small.wait(lambda: small.running() == 0 and small.waiting() == 0)
    assert small.client.post("/classify", json={"text": "a"}).status_code == 200


def test_several_sequences_are_admitted_together_or_not_at_all(small: Live) -> None:
    connections = [send(small, "/generate", LONG) for _ in range(2)]
    small.wait(lambda: small.running() == 2)
    connections.append(send(small, "/generate", LONG))
    small.wait(lambda: small.waiting() == 1)
    answer = small.client.post("/generate", json={"prompt": ["a", "b"]})
    assert answer.status_code == 429
    # Nothing of it was admitted: the last place is still free.
    small.wait(lambda: small.waiting() == 1)
    connections.append(send(small, "/generate", LONG))
    small.wait(lambda: small.waiting() == 2)
    for connection in connections:
        connection.close()


def test_a_request_past_its_deadline_is_given_up(checkpoints: Path) -> None:
    with serve(models=checkpoints, request_timeout=0.3, slots=1) as live:
        started = time.monotonic()
        answer = live.client.post("/generate", json=LONG)
        assert answer.status_code == 504
        assert answer.headers["content-type"] == "application/problem+json"
        assert 0.25 < time.monotonic() - started < 1.2
        with live.client.stream("POST", "/generate", json={**LONG, "stream": True}) as stream:
            assert stream.status_code == 200  # its first token came in time
            assert b"event: error" in stream.read()
        live.wait(lambda: live.running() == 0)
        assert live.client.post("/classify", json={"text": "a"}).status_code == 200


def test_a_hanging_engine_does_not_hang_requests(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(models=checkpoints, request_timeout=0.2) as live:
        [engine_client] = live.service.engine_clients()
        engine_client.engine._errands.put(lambda: time.sleep(2.5))
        answer = live.client.post("/generate", json={"prompt": "a"})
        assert answer.status_code == 504


def test_an_extreme_setting_does_not_disturb_other_requests(live: Live) -> None:
    ordinary = {"prompt": "The sea", "max_new_tokens": 60, "seed": 4, "ignore_eos": True}
    extreme: list[dict[str, Any]] = [
        {"prompt": "x", "top_p": 1e-300},
        {"prompt": "x", "min_p": 1.0, "temperature": 100},
        {"prompt": "x", "temperature": 1e-300},
        {"prompt": "x", "repetition_penalty": 1e-6, "presence_penalty": -2},
        {"prompt": "x", "top_k": 1_000_000, "top_p": 1e-300, "n": 4},
    ]

    def call(body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{live.url}/generate", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"]

    alone = call(ordinary)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        together = [pool.submit(call, ordinary) for _ in range(4)]
        for choices in pool.map(call, extreme):
            assert all(choice["finish_reason"] in ("length", "eos") for choice in choices)
        assert [future.result() for future in together] == [alone] * 4


def test_requests_of_all_kinds_at_once(live: Live) -> None:
    bodies = [
        ("/generate", {"prompt": f"The old man {i}", "max_new_tokens": 20, "seed": i})
        if i % 3 == 0
        else ("/classify", {"text": f"free prize {i}"})
        if i % 3 == 1
        else ("/instruct", {"instruction": f"Say {i}.", "max_new_tokens": 20})
        for i in range(30)
    ]

    def call(request: tuple[str, dict[str, Any]]) -> Any:
        answer = httpx.post(live.url + request[0], json=request[1], timeout=30)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return body.get("choices") or body.get("response") or body["results"][0]["label"]

    alone = [call(body) for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        together = list(pool.map(call, bodies))
    assert together == alone
