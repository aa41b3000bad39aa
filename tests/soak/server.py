"""The models from scratch in a process of their own, and what can be seen of it from outside."""

import contextlib
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.app.conftest import environment, free_port
from tests.e2e.server import SCRATCH

_REQUESTS = r'penwright_requests_total\{.*route="(.+)",status="(\d+)".*\}'


@dataclass(frozen=True)
class Figures:
    """Of the server's process, at one moment."""

    memory: float
    """Resident, in MB."""
    threads: int
    files: int
    """Open file descriptors, connections among them."""


@dataclass(frozen=True)
class Running:
    """A server's process and its address."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def metrics(self) -> dict[str, float]:
        """Each sample by its name with its labels, as /metrics writes it."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def requests(self) -> Counter[tuple[str, int]]:
        """Answers counted so far, by route and status."""
        found: Counter[tuple[str, int]] = Counter()
        for name, value in self.metrics().items():
            if match := re.fullmatch(_REQUESTS, name):
                found[match[1], int(match[2])] += int(value)
        return found

    def figures(self) -> Figures:
        process = psutil.Process(self.process.pid)
        memory = process.memory_info().rss / 2**20
        return Figures(memory, process.num_threads(), process.num_fds())

    def assert_idle(self, seconds: float = 15) -> None:
        """Wait until nothing is left of any request: no slot, no place in the queue, no block."""
        names = ("requests_running", "requests_waiting", "cache_usage_ratio")
        deadline = time.monotonic() + seconds
        while True:
            metrics = self.metrics()
            left = {name: metrics[f"penwright_{name}"] for name in names}
            if not any(left.values()):
                break
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
        answer = httpx.post(f"{self.url}/classify", json={"text": "are you there"}, timeout=30)
        assert answer.status_code == 200
        assert httpx.get(f"{self.url}/readyz", timeout=30).status_code == 200


@contextlib.contextmanager
def running(
    directory: Path,
    *flags: str,
    port: int | None = None,
    program: Sequence[str] = (),
    **variables: str,
) -> Iterator[Running]:
    """`penwright-serve`, once it is ready; killed in the end if it has not ended."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    log = directory / f"log-{port}"
    command = [sys.executable, *(program or ("-m", "app.cli")), "--port", str(port), *flags]
    command += ["--models", str(SCRATCH), "--threads", "1"]
    with log.open("ab") as to:
        process = subprocess.Popen(command, env=environment(**variables), stderr=to)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, "not ready in time"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", timeout=30).status_code == 200:
                    break
            time.sleep(0.05)
        yield Running(process, url, log)
    finally:
        process.kill()
        process.wait()
