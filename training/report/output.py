"""What a command shows, which is never worth what it trains.

A terminal may be closed while a run goes on, a pipe's reader may leave, and an encoding may lack a
character: none of that ends the command. What cannot be encoded is shown as `?`; what cannot be
written is dropped.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Output:
    """A text stream whose writes never fail.

    Args:
        stream: where it writes to; None, as Python has it where the descriptor is closed, is
            nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: Exception | None = None
        """Why nothing is written any more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._stream is not None and self.error is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                return self.write(text.encode(encoding, "replace").decode(encoding))
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None and self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        return self._stream is not None and self.error is None and self._stream.isatty()

    def _give_up(self, error: Exception) -> None:
        """What is in the buffers goes nowhere: Python tries to write it once more when it ends,
        and would end with an error."""
        self.error = error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast(TextIO, self._stream).fileno())
            os.close(nowhere)


@contextlib.contextmanager
def shown() -> Iterator[Output]:
    """Let nothing that is shown in this block raise; gives what then is `sys.stdout`."""
    _occupy_descriptors()
    out, err = Output(sys.stdout), Output(sys.stderr)
    with (
        contextlib.redirect_stdout(cast(TextIO, out)),
        contextlib.redirect_stderr(cast(TextIO, err)),
    ):
        try:
            yield out
        finally:
            out.flush()
            err.flush()


def _occupy_descriptors() -> None:
    """Give the standard descriptors that are closed to the null device: otherwise the next file
    that is opened, such as a saved state, is where warnings of C code go."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
