"""A training loop as its author wrote it, stopped between its steps.

Every loop runs in a thread of its own. At one point of each step it calls `between_steps`, and goes
on when `steps` wants more of it. Nothing of the loop is rewritten for the benchmark.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Loop:
    """
    Args:
        run: the loop; it calls `between_steps` of what it is given, once a step, and never returns.
        threads: to compute with.
    """

    def __init__(self, run: "Callable[[Loop], None]", threads: int) -> None:
        self._run, self._threads = run, threads
        self._wanted = threading.Semaphore(0)
        self._reached: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        # A daemon: the process may end while it waits.
        self._thread = threading.Thread(target=self._main, daemon=True)

    def start(self) -> None:
        """Run up to the first call of `between_steps`, and one step on from there."""
        self._thread.start()
        self._wait()
        self.steps(1)

    def steps(self, count: int) -> None:
        """Raises:
        RuntimeError: the loop failed or ended.
        """
        for _ in range(count):
            self._wanted.release()
            self._wait()

    def between_steps(self) -> None:
        """For the loop's thread."""
        self._reached.put(None)
        self._wanted.acquire()

    def batches(self, loader: Any) -> Iterator[Any]:
        """The batches of a loader again and again, each when its step is wanted."""
        while True:
            for batch in loader:
                self.between_steps()
                yield batch

    def _wait(self) -> None:
        error = self._reached.get()
        if error is not None:
            raise RuntimeError(f"the training loop stopped: {error!r}") from error

    def _main(self) -> None:
        try:
            torch.set_num_threads(self._threads)  # a setting of each thread
            self._run(self)
            self._reached.put(RuntimeError("it came to its end"))
        except BaseException as error:
            self._reached.put(error)
