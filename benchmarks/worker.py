"""One system in a process of its own, so that no system's idle threads disturb another.

The parent names a method of the system and its arguments as a line of JSON; the worker runs it,
takes the time of the call alone, and answers with a line. Between the calls it only reads.

    with Worker("penwright", work, threads=2) as worker:
        seconds = worker.call("prefill", prompt=[1, 2, 3]).seconds
"""

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

LOAD_SECONDS = 600.0
"""Converting the weights included, on the first use."""
CALL_SECONDS = 300.0
SETTLE_SECONDS = 0.3
"""Before each call: OpenMP's threads spin up to 0.2 s after the work before."""


class WorkerFailed(Exception):
    """The system is not installed, cannot do what was asked, or died; the message says which."""


@dataclass(frozen=True)
class Answer:
    """What a call came to."""

    seconds: float
    value: Any
    settings: dict[str, Any]
    """Of the system, after the call."""
    resident: int
    """Bytes of the worker in memory, after the call."""


class Worker:
    """The parent's end.

    Args:
        log: name of the file in `work` for the worker's own output, if not the system's.

    Raises:
        WorkerFailed: the system cannot be loaded.
    """

    def __init__(
        self, system: str, work: Path, threads: int, *, log: str = "", **options: Any
    ) -> None:
        self.system = system
        self._log = (work / f"{log or system}.log").open("wb")
        command = [sys.executable, "-m", "benchmarks.worker", system, str(work)]
        command += ["--threads", str(threads), "--options", json.dumps(options)]
        # Only the variable that all of them read; each sets its own threads besides.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=Path(__file__).resolve().parent.parent,
        )
        self.settings: dict[str, Any] = {}
        """Of the system, as of its last answer."""
        try:
            self.loaded = self._read(LOAD_SECONDS)
        except WorkerFailed:
            self.close()
            raise

    def call(self, method: str, **arguments: Any) -> Answer:
        """Run a method of the system.

        Raises:
            WorkerFailed: it cannot do that, or failed.
        """
        time.sleep(SETTLE_SECONDS)
        assert self._process.stdin is not None
        line = json.dumps({"method": method, "arguments": arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerFailed(f"{self.system} has died; see {self._log.name}") from error
        return self._read(CALL_SECONDS)

    def _read(self, timeout: float) -> Answer:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], timeout)[0]:
            self._process.kill()
            raise WorkerFailed(f"{self.system} did not answer in {timeout:.0f} s")
        line = stdout.readline()
        if not line:
            raise WorkerFailed(f"{self.system} has died; see {self._log.name}")
        values = json.loads(line)
        if "error" in values:
            raise WorkerFailed(values["error"])
        answer = Answer(**values)
        self.settings = answer.settings
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it died with something unread
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def resident_bytes(process: int | str = "self", field: str = "VmRSS") -> int:
    """A figure of /proc/PID/status, in bytes: VmRSS, VmHWM (the peak of it), RssAnon, RssFile.

    Returns:
        0 where there is no /proc
    """
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        return 0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def main() -> None:
    """The worker's end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system")
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    def done(seconds: float, value: Any) -> None:
        answer(seconds=seconds, value=value, settings=system.settings, resident=resident_bytes())

    from benchmarks import systems

    started = time.perf_counter()
    try:
        system = systems.load(
            arguments.system, arguments.work, arguments.threads, **arguments.options
        )
    except ImportError as error:
        answer(error=f"not installed: {error}")
        return
    except Exception as error:
        answer(error=f"cannot be loaded: {type(error).__name__}: {error}")
        raise
    done(time.perf_counter() - started, None)
    for line in sys.stdin:
        call = json.loads(line)
        try:
            method = getattr(system, call["method"])
            started = time.perf_counter()
            value = method(**call["arguments"])
            done(time.perf_counter() - started, value)
        except Exception as error:
            answer(error=f"{call['method']} failed: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
