"""Clients that speak HTTP slowly, not at all, too much, or without reading."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.http import connections
from app.http.connections import Connection

from .conftest import CONTEXT, Live, serve
from .wire import closed, connect, get, post, read_answer, reset

LONG = {"prompt": "a", "max_new_tokens": CONTEXT - 1, "ignore_eos": True}
SHORT = post("/generate", {"prompt": "a", "max_new_tokens": 2})


@pytest.fixture(scope="module")
def hasty(checkpoints: Path) -> Iterator[Live]:
    """A service that waits for nobody."""
    settings = {"body_timeout": 0.4, "send_timeout": 0.4, "max_body_bytes": 100_000}
    with serve(models=checkpoints, step_tokens=64, **settings) as live:
        yield live


@pytest.fixture(scope="module")
def patient(checkpoints: Path) -> Iterator[Live]:
    """The same, but for the time that a request may take."""
    with serve(models=checkpoints, body_timeout=300, max_body_bytes=100_000) as live:
        yield live


@pytest.fixture(autouse=True)
def afterwards(hasty: Live) -> Iterator[None]:
    """Whatever a client does, the service is idle and right when it has gone."""
    yield
    hasty.wait(lambda: hasty.running() == 0 and hasty.waiting() == 0, 3)
    hasty.wait(lambda: hasty.service.in_flight == 0, 3)
    [engine_client] = hasty.service.engine_clients()
    hasty.wait(lambda: engine_client.stats().free_blocks == engine_client.stats().blocks, 3)
    assert not engine_client._submitted
    assert hasty.client.post("/classify", json={"text": "a"}).status_code == 200


# ---- slow ----


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"PO", 408),
        (b"POST /generate HT", 408),
        (b"POST /generate HTTP/1.1\r\nHost: he", 408),
        (SHORT[:-5], 408),
        (SHORT[: SHORT.index(b"\r\n\r\n") + 4], 408),
        (SHORT + b"GET /heal", 200),
    ],
)
def test_what_does_not_arrive_in_time_is_refused(
    hasty: Live, sent: bytes, status: int | None
) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        if status is not None:
            answered, headers, body = read_answer(connection)
            assert answered == status
            if status == 408:
                assert headers["content-type"] == "application/problem+json"
                assert headers["connection"] == "close"
                assert "within 0.4 seconds" in json.loads(body)["detail"]
        assert closed(connection)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("part", [SHORT[:60], SHORT[-20:]])
def test_a_byte_now_and_then_does_not_prolong_it(hasty: Live, part: bytes) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(SHORT[: SHORT.index(part)])
        started = time.monotonic()
        try:
            for byte in part:
                connection.sendall(bytes([byte]))
                time.sleep(0.06)
            assert read_answer(connection)[0] == 408
        except ConnectionError:
            pass  # closed while we sent
        assert closed(connection)
        assert time.monotonic() - started < 3


def test_the_rest_of_a_refused_body_does_not_keep_the_connection(hasty: Live) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n")
        assert read_answer(connection)[0] == 413
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 5:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - started < 4
    with connect(hasty.url) as connection:  # as a whole, and then nothing
        connection.sendall(get("/healthz", "Content-Length: 3"))
        assert read_answer(connection)[0] == 200
        connection.sendall(b"abc")
        connection.settimeout(3)
        assert closed(connection)


HUGE = b"x" * 30_000_000


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /generate HTTP/1.1\r\nHost: a\r\n%sConnection: close\r\n\r\n", 413),
        (b"POST /generate HTTP/1.0\r\n%s\r\n", 413),
        (b"POST /nowhere HTTP/1.1\r\nHost: a\r\n%sConnection: close\r\n\r\n", 413),
        (b"POST /generate HTTP/1.1\r\nHost: a\r\n%sConnection: close\r\nA: \xff\x00\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: a\r\n%sA: ", 431),  # a header of that length
    ],
)
def test_who_sends_all_before_reading_gets_the_answer(
    patient: Live, head: bytes, status: int
) -> None:
    """As `urllib` does."""
    with connect(patient.url) as connection:
        connection.settimeout(60)
        connection.sendall(head % b"Content-Length: %d\r\n" % len(HUGE))
        connection.sendall(HUGE)
        answered, headers, _ = read_answer(connection)
        assert (answered, headers["connection"]) == (status, "close")
        assert closed(connection)
    patient.wait(lambda: not patient.server.server_state.connections, 30)


def send_on(connection: socket.socket, size: int) -> None:
    for _ in range(2000):
        connection.sendall(b"x" * size)
        time.sleep(0.005)


def test_dropping_what_comes_after_the_answer_has_an_end(
    hasty: Live, patient: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_DROPPED_BYTES", 1_000_000)
    for live, size in ((patient, 1 << 16), (hasty, 1)):  # by bytes, by time
        for more in (b"", b"Connection: close\r\n"):
            with connect(live.url) as connection:
                head = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n"
                connection.sendall(head + more + b"\r\n")
                assert read_answer(connection)[0] == 413
                with pytest.raises(ConnectionError):
                    send_on(connection, size)


def test_an_answer_that_takes_long_is_not_cut(hasty: Live) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(post("/generate", {**LONG, "stream": True}))
        started = time.monotonic()
        while time.monotonic() - started < 0.9:
            assert connection.recv(65536)
            time.sleep(0.01)
        hasty.wait(lambda: hasty.running() == 1)


# ---- readers ----


def small_window(live: Live) -> Connection:
    """The server's end of the connection that asks something, made to hold little itself."""
    live.wait(lambda: live.running() > 0)
    [found] = [
        connection
        for connection in live.server.server_state.connections
        if isinstance(connection, Connection) and connection._answering()
    ]
    kernel = found.transport.get_extra_info("socket")
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return found


def test_a_client_that_does_not_read_is_cut_off(hasty: Live) -> None:
    with connect(hasty.url, receive_buffer=2048) as connection:
        # A token brings the probabilities of twenty.
        body = {**LONG, "stream": True, "logprobs": 20, "n": 2}
        connection.sendall(post("/generate", body))
        server_side = small_window(hasty)
        # Others do not notice.
        assert hasty.client.post("/classify", json={"text": "b"}).status_code == 200
        most = 0

        def cut() -> bool:
            nonlocal most
            most = max(most, server_side.transport.get_write_buffer_size())
            return server_side not in hasty.server.server_state.connections

        hasty.wait(cut, 20)
        assert 0 < most < 1 << 18
        assert closed(connection)
    hasty.wait(lambda: hasty.running() == 0, 2)


def test_a_client_that_reads_slowly_is_served(hasty: Live) -> None:
    body = {**LONG, "max_new_tokens": 400, "stream": True, "logprobs": 20, "n": 2}
    with connect(hasty.url, receive_buffer=2048) as connection:
        connection.sendall(post("/generate", body))
        server_side = small_window(hasty)
        got, started, behind = b"", time.monotonic(), 0
        while not got.endswith(b"0\r\n\r\n"):
            piece = connection.recv(10_000)
            assert piece, got[-100:]
            got = got[-10:] + piece
            if time.monotonic() - started < 1.2:
                behind += server_side.transport.get_write_buffer_size() > 0
                time.sleep(0.02)
        assert behind > 10


# ---- wrong ----

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(200))


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 100,
        bytes(range(256)) * 4,
        TLS_HELLO,
        b"SSH-2.0-OpenSSH_9\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT here:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /generate HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcdef\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\na",
        b"POST /generate HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_are_refused(hasty: Live, sent: bytes) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(sent)
        status, headers, body = read_answer(connection)
        assert 400 <= status < 500
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["status"] == status
        assert closed(connection)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /healthz?", b"x" * 4096),
        (b"GET /healthz HTTP/1.1\r\nA: ", b"x" * 4096),
        (b"GET /healthz HTTP/1.1\r\n", b"A: b\r\n" * 700),
        (b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 4096),
        (b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 700),
    ],
)
def test_endless_headers_are_refused(hasty: Live, begin: bytes, more: bytes) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(begin)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 23:
                sent += connection.send(more)
                time.sleep(0.004)
        # The kernel's buffers beside the limit.
        assert sent < 1 << 22


def test_long_headers_are_named(hasty: Live) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(get("/healthz", "A: " + "x" * 70_000)[:-4])
        status, headers, body = read_answer(connection)
        problem = json.loads(body)
        assert status == 431
        assert "more than 65536 bytes" in problem["detail"]
        assert re.fullmatch("[0-9a-f]{32}", problem["request_id"])
        assert headers["x-request-id"] == problem["request_id"]
    counted = 'penwright_rejections_total{reason="headers_too_large"} '
    assert re.search(rf"^{re.escape(counted)}[1-9]", hasty.client.get("/metrics").text, re.M)
    assert hasty.client.get("/healthz", headers={"A": "x" * 60_000}).status_code == 200


# ---- unusual, but right ----


def test_a_body_in_chunks_is_read(hasty: Live) -> None:
    content = json.dumps({"prompt": "a", "max_new_tokens": 2}).encode()
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
    with connect(hasty.url) as connection:
        connection.sendall(head + chunks + b"0\r\nTrailer: a\r\n\r\n")
        assert read_answer(connection)[0] == 200
        connection.sendall(SHORT)
        assert read_answer(connection)[0] == 200


def test_expect_100_continue(hasty: Live) -> None:
    head, _, content = post("/classify", {"text": "a"}, "Expect: 100-continue").partition(
        b"\r\n\r\n"
    )
    with connect(hasty.url) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content)
        assert read_answer(connection)[0] == 200


def test_http_1_0_head_and_an_upgrade_that_is_not_offered(hasty: Live) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(SHORT.replace(b"HTTP/1.1", b"HTTP/1.0"))
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert closed(connection)
    assert hasty.client.head("/healthz").status_code == 200
    # As Java's client does with every first request.
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with connect(hasty.url) as connection:
        connection.sendall(post("/generate", {"prompt": "a", "max_new_tokens": 2}, *upgrade))
        assert read_answer(connection)[0] == 200


def test_a_connection_goes_on_after_errors(hasty: Live) -> None:
    with connect(hasty.url) as connection:
        for request, expected in (
            (get("/nowhere"), 404),
            (get("/generate"), 405),
            (post("/generate", {"prompt": 1}), 422),
            (post("/generate", {"prompt": "a" * 90_000}), 400),
            (post("/generate", {"prompt": "a" * 110_000}), 413),
            (SHORT.replace(b'"prompt"', b"'prompt'"), 400),
            (post("/classify", {"text": "a"}), 200),
        ):
            connection.sendall(request)
            assert read_answer(connection)[0] == expected


def test_requests_sent_ahead_are_answered_in_order(hasty: Live) -> None:
    with connect(hasty.url) as connection:
        connection.sendall(post("/generate", {**LONG, "max_new_tokens": 300}))
        hasty.wait(lambda: hasty.running() == 1)
        connection.sendall(get("/healthz") + get("/nowhere"))
        assert b'"completion_tokens":300' in read_answer(connection)[2]
        assert read_answer(connection)[0] == 200
        # In one packet with the one before: for the client to repeat.
        assert closed(connection)


@pytest.mark.parametrize("ahead", [b"", get("/healthz"), get("/a") * 5000])
@pytest.mark.parametrize("together", [True, False])
def test_a_client_that_leaves_is_noticed_whatever_it_sent_ahead(
    hasty: Live, ahead: bytes, together: bool
) -> None:
    connection = connect(hasty.url)
    request = post("/generate", LONG)
    connection.sendall(request + ahead if together else request)
    hasty.wait(lambda: hasty.running() == 1)
    if not together:
        connection.sendall(ahead)
    started = time.monotonic()
    reset(connection)
    hasty.wait(lambda: hasty.running() == 0)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("part", [SHORT[-30:], SHORT[-3:]])
def test_a_client_that_leaves_within_its_body_sent_nothing_wrong(hasty: Live, part: bytes) -> None:
    def count(status: int) -> float:
        text = hasty.client.get("/metrics").text
        sample = rf'^penwright_requests_total{{.*route="/generate",status="{status}".*}} (.+)$'
        return sum(map(float, re.findall(sample, text, re.MULTILINE)))

    gone, wrong = count(499), count(400)
    with connect(hasty.url) as connection:
        connection.sendall(SHORT.removesuffix(part))
        hasty.wait(lambda: hasty.service.in_flight > 0)
    hasty.wait(lambda: count(499) == gone + 1)
    assert count(400) == wrong


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Encoding: gzip"], 415),
        (["Content-Encoding: identity, GZIP"], 415),
        (["Content-Encoding: identity", "Content-Encoding: br"], 415),
        (["Content-Encoding: unknown"], 415),
        (["Content-Encoding: Identity"], 200),
        (["Content-Encoding:"], 200),
    ],
)
def test_a_body_that_is_encoded_is_refused(hasty: Live, headers: list[str], status: int) -> None:
    for path, body in (("/classify", {"text": "a"}), ("/v1/completions", {"prompt": "a"})):
        with connect(hasty.url) as connection:
            connection.sendall(post(path, body, *headers))
            answered, answer_headers, content = read_answer(connection)
            assert answered == status, path
            if status == 415:
                value = ", ".join(header.partition(": ")[2] for header in headers)
                assert f"Content-Encoding is {value!r}" in content.decode()
                assert answer_headers["accept-encoding"] == "identity"
