"""Three services behind HAProxy, with the configuration that `docker-compose.yml` gives it.

The tests share them, and each of the last two ends one.
"""

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.conftest import free_port, process, until_ready

from .load import SLOTS, TOKENS, Load, body, text_of

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "haproxy.cfg"
REPLICAS = 3
CLIENTS = 9


@dataclass(frozen=True)
class Replica:
    url: str
    program: subprocess.Popen[str]

    def running(self) -> int:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        [line] = [line for line in lines if line.startswith("penwright_requests_running ")]
        return int(float(line.split()[-1]))

    def answered(self) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith("penwright_requests_total") and '"/generate"' in line
        )


@dataclass(frozen=True)
class Balanced:
    url: str
    replicas: list[Replica]


def configuration(port: int, replicas: list[Replica]) -> str:
    """The file as it is, but for the addresses."""
    text, binds = re.subn(r"bind :8000", f"bind 127.0.0.1:{port}", CONFIG.read_text())
    servers = "\n".join(
        f"    server replica{number} {replica.url.removeprefix('http://')}"
        for number, replica in enumerate(replicas)
    )
    text, templates = re.subn(r"    server-template .*", servers, text)
    assert (binds, templates) == (1, 1)
    return text


@pytest.fixture(scope="module")
def balanced(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    tmp_path = tmp_path_factory.mktemp("haproxy")
    flags = ("--models", str(checkpoints), "--slots", str(SLOTS), "--log-level", "warning")
    flags += ("--drain-delay", "2")  # as in docker-compose.yml
    with contextlib.ExitStack() as stack:
        replicas = []
        for _ in range(REPLICAS):
            program, url = stack.enter_context(process(*flags))
            replicas.append(Replica(url, program))
        for replica in replicas:
            until_ready(replica.program, replica.url)
        port = free_port()
        file = tmp_path / "haproxy.cfg"
        file.write_text(configuration(port, replicas))
        with (tmp_path / "haproxy.log").open("w") as log:
            balancer = subprocess.Popen(["haproxy", "-db", "-f", str(file)], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 30
            while not _answers(url):
                assert time.monotonic() < deadline, (tmp_path / "haproxy.log").read_text()
                time.sleep(0.05)
            yield Balanced(url, replicas)
        finally:
            balancer.kill()
            balancer.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_what_passes_through(balanced: Balanced, expected: dict[int, str]) -> None:
    with httpx.Client(base_url=balanced.url, timeout=60) as client:
        with client.stream("POST", "/generate", json=body(1)) as answer:
            pieces = answer.iter_raw()
            first = next(pieces)
            # It has a piece, and the replica is still at it: nothing collects them in between.
            assert sum(replica.running() for replica in balanced.replicas) == 1
            rest = list(pieces)
        assert len(rest) > TOKENS / 20
        assert text_of(b"".join([first, *rest])) == expected[1]

        given = client.post("/generate", json={"prompt": 1}, headers={"X-Request-ID": "mine"})
        assert given.status_code == 422
        assert given.headers["x-request-id"] == given.json()["request_id"] == "mine"
        made = client.post("/generate", json={"prompt": 1})
        assert made.headers["x-request-id"] == made.json()["request_id"] != "mine"
        # A megabyte is our limit, not the balancer's.
        large = client.post("/classify", json={"text": "a" * 1_000_000})
        assert large.json()["type"].endswith(":context-length")
        assert client.post("/classify", json={"text": "a" * 1_100_000}).status_code == 413
        assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_slot(balanced: Balanced, streams: bool) -> None:
    # Far longer than the test looks at it.
    long = {**body(0, 4000), "stream": streams}
    with httpx.Client(base_url=balanced.url, timeout=60) as client:
        if streams:
            with client.stream("POST", "/generate", json=long) as answer:
                pieces = answer.iter_raw()  # kept: httpx closes the answer with its iterator
                next(pieces)
                assert sum(replica.running() for replica in balanced.replicas) == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/generate", json=long, timeout=0.3)
    left = time.monotonic()
    while any(replica.running() for replica in balanced.replicas):
        assert time.monotonic() - left < 0.5
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_replica_that_ends(
    balanced: Balanced, expected: dict[int, str], how: signal.Signals, record_property: Any
) -> None:
    with Load(balanced.url, expected, CLIENTS) as load:
        deadline = time.monotonic() + 60
        while min(replica.answered() for replica in balanced.replicas) < SLOTS:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        gone = balanced.replicas.pop()
        while not (in_flight := gone.running()):
            pass
        killing = time.monotonic()
        gone.program.send_signal(how)
        code = gone.program.wait(30)
        killed = time.monotonic()
        ended = len(load.answers)
        while len(load.answers) < ended + 5 * CLIENTS:
            assert time.monotonic() < killed + 60
            time.sleep(0.1)
    figures = {
        "answers": len(load.answers),
        "failures": len(load.failures()),
        "in_flight_on_it": in_flight,
        "begun_while_ending": sum(killing <= a.started <= killed for a in load.answers),
        "seconds_to_end": round(killed - killing, 3),
        "after": sum(a.started > killed for a in load.answers),
        "problems": sorted({f"{a.status} {a.problem}" for a in load.failures()}),
    }
    record_property(f"figures_{how.name}", figures)
    assert figures["after"] > CLIENTS
    if how == signal.SIGTERM:
        assert code == 0
        assert load.failures() == [], figures
    else:
        assert len(load.failures()) <= in_flight + figures["begun_while_ending"], figures
        assert all(a.started <= killed for a in load.failures()), figures
        # Cut off, or in the form of our own errors.
        told = [a.problem for a in load.failures() if a.status]
        assert all('"status":502' in str(problem) for problem in told), figures
