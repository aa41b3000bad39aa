"""Real server processes."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

SCRATCH = Path(__file__).resolve().parents[2] / "checkpoints" / "scratch"
"""A model set for all three tasks, whose weights are in the repository."""


def environment() -> dict[str, str]:
    """One thread, and warnings are errors in the child, too."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


@contextlib.contextmanager
def serve(log: Path, *arguments: object) -> Iterator[tuple[httpx.Client, float]]:
    """`penwright-serve` with these arguments.

    Yields:
        a client of it, and the seconds from the start of the process until it was ready
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "--port", str(port), *map(str, arguments)],
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_until_ready(client, process, log)
            yield client, time.monotonic() - started
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text())
