"""What is sent to one client, and how much of it the client's side has acknowledged.

`Outgoing` is the transport of a connection, which counts what is written. What asyncio still holds
says little of what a client takes: the kernel holds megabytes before asyncio's buffer moves. Linux
says how much of that was not acknowledged; elsewhere its buffer is made small.

It also closes with care: a connection that is closed while its client still sends is reset, and the
client may never see the answer that it was sent. So only the sending side is closed at first, as
RFC 9112, 9.6 advises.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Data = bytes | bytearray | memoryview[Any]

SMALL_BUFFER = 1 << 16
"""Bytes that the kernel holds for a client where it does not say how much of them has arrived."""
BEGINNING = b"HTTP/1.1 "
"""Of every answer."""


class Outgoing(asyncio.Transport):
    """The transport of a client's connection.

    Args:
        more_comes: whether the client may still send something when the connection is closed.
    """

    def __init__(
        self, transport: asyncio.Transport, more_comes: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__()
        self.lingering = False
        """Everything is sent; what still comes is to be read and dropped until `end`."""
        self._more_comes = more_comes
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._written = 0
        self._ahead = 0  # bytes of the next answer's beginning that are sent
        self._taken = -1  # bytes that the client had taken when last looked at
        self._taken_at = 0.0  # when that changed, or nothing was left to take
        if self._socket is not None and _unacknowledged(self._socket) is None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)

    def unsent(self) -> int:
        """Bytes that were written, and that the client has not acknowledged."""
        held = self._transport.get_write_buffer_size()
        return held + (_unacknowledged(self._socket) or 0)

    def seconds_stalled(self, now: float) -> float:
        """For how long the client has taken nothing of what there is for it.

        Args:
            now: on a clock; what is asked for at more moments is more exact.
        """
        unsent = self.unsent()
        taken = self._written - unsent
        if not unsent or taken > self._taken:
            self._taken_at = now
        self._taken = taken
        return now - self._taken_at

    def send_ahead(self) -> None:
        """Send one byte more of an answer that has not begun: a client that is gone refuses it."""
        if self._ahead < len(BEGINNING) and not self.is_closing():
            self._transport.write(BEGINNING[self._ahead : self._ahead + 1])
            self._ahead += 1
            self._written += 1

    def refused(self) -> bool:
        """Whether the client's side has answered that nobody is there."""
        error: int = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return error != 0

    # ---- of asyncio's transports ----

    def write(self, data: "Data") -> None:
        if not self.lingering:
            data, self._ahead = data[self._ahead :], 0
            self._written += len(data)
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable["Data"]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def close(self) -> None:
        if self.is_closing():
            return
        self.lingering = self._more_comes()
        if self.lingering:
            self._transport.write_eof()
        else:
            self._transport.close()

    def end(self) -> None:
        """Close, whatever still comes."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self.lingering or self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


def _unacknowledged(connection: Any) -> int | None:
    """Bytes that the kernel holds for the other side; None if it does not say, or not of this."""
    if not sys.platform.startswith("linux") or connection is None:
        return None
    import fcntl
    import termios

    try:  # SIOCOUTQ, by its other name: written, and not acknowledged
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # closed
        return None
    return int(struct.unpack("i", answer)[0])
