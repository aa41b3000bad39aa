"""The process in which one chat template is compiled and rendered, seen from outside.

It starts on first use, and again after a limit has ended it. A thread that asks waits for its
answer, but never for longer than the limits allow. It ends with whoever started it: when nobody
holds the template any more, at exit, and when its input is closed.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from model.errors import PenwrightError, UsageError
from model.prompts.foreign.frames import HEADER_BYTES, MEMORY_EXIT, content_of, frame, length_of
from model.subprocesses import python_path

logger = logging.getLogger(__name__)

CPU_SECONDS = 4
"""Of one request. A conversation of a hundred turns takes some 50 ms, and what it takes grows with
the square of its turns."""
WALL_SECONDS = 30.0
"""Of one request, on a machine that is busy, too; the process starts in this time as well."""
MEMORY = 2**29
"""Bytes of address space. Python with Jinja takes a tenth; the rest is for texts, of which there
are a few copies with four bytes for each character."""
OUTPUT = 2**22
"""Characters that a template may write: the text of about a million tokens."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")
"""Environment variables that Python may need to start. The others may hold keys."""


@dataclass(frozen=True)
class Limits:
    """What one request may take."""

    cpu: int = CPU_SECONDS
    wall: float = WALL_SECONDS
    memory: int = MEMORY
    output: int = OUTPUT


class RenderProcess:
    """The process, from its start to its end, any number of times.

    Args:
        setup: of the template: `text`, `special` (a regular expression), `bos_token`, `eos_token`.
    """

    def __init__(self, setup: dict[str, Any], limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._setup = {**setup, "limits": asdict(self._limits)}
        self._forget()

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._variables: frozenset[str] | None = None

    def variables(self) -> frozenset[str]:
        """The names that the template reads.

        Raises:
            UsageError, PenwrightError: as of `ask`.
        """
        with self._held():
            if self._variables is None:
                self._exchange(None)
            assert self._variables is not None
            return self._variables

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            UsageError: the template cannot be compiled, has no form for the conversation, or hits a
                limit; says which.
            PenwrightError: the process cannot be started.
        """
        with self._held():
            return self._exchange(request)

    @contextlib.contextmanager
    def _held(self) -> Any:
        if self._owner != os.getpid():
            # A fork: the process belongs to the parent, and a lock may be held by no thread here.
            if self._running is not None:
                self._running.leave()
            self._forget()
        with self._lock:
            try:
                yield
            except UsageError:
                if self._running is not None and not self._running.alive:
                    self.close()
                raise
            except BaseException:  # an answer may be under way that nobody will read
                self.close()
                raise

    def close(self) -> None:
        """End the process, if it runs; the next request starts another."""
        running, self._running = self._running, None
        if running is not None:
            running.end()

    def _exchange(self, request: dict[str, Any] | None) -> dict[str, Any]:
        """Ask, and once more in a new process if something else than a limit ended this one."""
        for _ in range(2):
            try:
                if self._running is None or not self._running.alive:
                    self._start()
                assert self._running is not None
                return {} if request is None else self._running.ask(request)
            except _EndedError as error:
                self.close()
                status = error.status
        logger.error("the process that renders a chat template ended with %d, twice", status)
        raise UsageError(f"the chat template ends the process that renders it ({_name(status)})")

    def _start(self) -> None:
        self.close()
        self._running = _Running(self)
        try:
            self._variables = frozenset(self._running.ask(self._setup)["variables"])
        except UsageError:  # it does not compile
            self.close()
            raise


class _EndedError(Exception):
    """The process ended while it worked, and by no limit."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Running:
    """A process that was started."""

    def __init__(self, owner: RenderProcess) -> None:
        self._wall = owner._limits.wall
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            self._process = subprocess.Popen(
                # Without -P, a package in the working directory could stand for `model`.
                [sys.executable, "-P", "-m", "model.prompts.foreign.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # or a fork could write what is in a buffer a second time
                env={**kept, "PYTHONPATH": python_path()},
                start_new_session=True,  # Ctrl-C is for who holds it
            )
        except OSError as error:
            logger.error("the process that renders a chat template cannot start: %s", error)
            raise PenwrightError(f"a chat template cannot be rendered: {error}") from error
        self._end = weakref.finalize(owner, _end, self._process, os.getpid())

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer.

        Raises:
            UsageError: as of `RenderProcess.ask`.
            _EndedError: the process ended, nobody knows why.
        """
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()  # which ends the waiting below

        timer = threading.Timer(self._wall, stop)
        timer.daemon = True
        timer.start()
        try:
            answer = self._exchange(frame(request))
        finally:
            timer.cancel()
            timer.join()
        if late.is_set() or answer is None:
            self._raise_ended(late.is_set())
        if "error" in answer:
            raise UsageError(str(answer["error"]))
        return answer

    def _exchange(self, content: bytes) -> dict[str, Any] | None:
        """The answer; None if the process ends before it is there."""
        assert self._process.stdin is not None
        view = memoryview(content)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[self._process.stdin.write(view) :]
        header = self._read(HEADER_BYTES)
        whole = None if header is None else self._read(length_of(header))
        return None if whole is None else content_of(whole)

    def _read(self, count: int) -> bytes | None:
        assert self._process.stdout is not None
        content = bytearray()
        while len(content) < count:
            piece = self._process.stdout.read(min(count - len(content), 2**20))
            if not piece:
                return None
            content += piece
        return bytes(content)

    def _raise_ended(self, late: bool) -> NoReturn:
        status = self._process.wait()
        if late or _name(status) == "SIGXCPU":
            raise UsageError("the chat template takes too long")
        if status == MEMORY_EXIT:
            raise UsageError("the chat template takes too much memory")
        if _name(status) == "SIGSEGV":
            raise UsageError("the chat template is nested too deeply")
        raise _EndedError(status)

    def end(self) -> None:
        """Kill it and wait for its end."""
        self._end()

    def leave(self) -> None:
        """Leave it to the process that started it, of which this one is a fork."""
        self._end.detach()
        _close(self._process)
        self._process.returncode = 0  # or it would be waited for


def _end(process: "subprocess.Popen[bytes]", owner: int) -> None:
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    _close(process)


def _close(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _name(status: int) -> str:
    with contextlib.suppress(ValueError):
        if status < 0:
            return signal.Signals(-status).name
    return f"status {status}"
