"""Our service in a process of its own, as its users start it."""

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from benchmarks.worker import resident_bytes
from model.checkpoint.weights_folder import VARIABLE

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 120.0  # s
_POLL = 0.01  # s: small beside the seconds of a start


class Server:
    """`penwright-serve` on a free port; ready when the constructor returns.

    Args:
        log: where its output goes.
        flags: of `penwright-serve`, as {"threads": 2}.

    Raises:
        RuntimeError: it ended, or was not ready in two minutes.
    """

    def __init__(self, log: Path, **flags: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        command = [sys.executable, "-m", "app.cli", "--port", str(self.port)]
        for name, value in {"log_level": "warning", **flags}.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        # PENWRIGHT_… of the caller would change what is measured, but for where weights lie.
        ours = {name for name in os.environ if name.startswith("PENWRIGHT_")} - {VARIABLE}
        environment = {k: v for k, v in os.environ.items() if k not in ours}
        self._file = log.open("wb")
        self.log = log
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._file, stderr=subprocess.STDOUT
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        self.seconds_to_ready = time.perf_counter() - started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> dict[str, int]:
        """Bytes: resident now, of it memory of its own and mapped files, and the peak so far."""
        names = {"resident": "VmRSS", "own": "RssAnon", "files": "RssFile", "peak": "VmHWM"}
        return {k: resident_bytes(self._process.pid, field) for k, field in names.items()}

    def _wait(self) -> None:
        end = time.perf_counter() + _PATIENCE
        while time.perf_counter() < end:
            if self._process.poll() is not None:
                break
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.request("GET", "/readyz")
                status = connection.getresponse().status
                connection.close()
                if status == 200:
                    return
            except OSError:
                pass
            time.sleep(_POLL)
        raise RuntimeError(f"the server is not ready; its log is {self.log}")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
