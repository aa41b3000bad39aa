"""HTTP by hand: what no well-behaved client would send, or leave unread."""

import json
import socket
import struct
from typing import Any

import httpx


def connect(url: str, *, receive_buffer: int | None = None) -> socket.socket:
    address = httpx.URL(url)
    connection = socket.socket()
    if receive_buffer is not None:  # before connecting: it sets the window
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect((address.host, address.port))
    return connection


def post(path: str, body: dict[str, Any], *headers: str) -> bytes:
    """The bytes of a request."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: here",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode()


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body of the next answer (none for a closed connection)."""
    # No byte more than this answer has: the next one may be there already.
    head, body = b"", b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        if not piece:
            raise ConnectionError(f"closed after {head!r}")
        head += piece
    first, *lines = head.decode().rstrip().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    status = int(first.split(" ")[1])
    if headers.get("transfer-encoding") == "chunked":
        while not body.endswith(b"0\r\n\r\n"):
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError(f"cut after {body[-100:]!r}")
            body += piece
    while len(body) < (length := int(headers.get("content-length", 0))):
        piece = connection.recv(length - len(body))
        if not piece:
            raise ConnectionError(f"cut after {body[-100:]!r}")
        body += piece
    return status, headers, body


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed it, after at most the connection's timeout."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def reset(connection: socket.socket) -> None:
    """Close with a RST in place of a FIN, as after a crash."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
