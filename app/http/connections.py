"""A client's connection, bounded in size and time.

uvicorn bounds neither the headers of a request nor the time that they take, waits for ever for a
client that reads nothing, does not notice that a client leaves which sent its next request
already, resets the connection of one that still sends when its answer is complete, and loses the
body of a request that offers another protocol, as Java's client does.
`Connection` is uvicorn's own protocol with these six mended; `app.http.bodies` bounds the body,
`app.http.requests` its size. `Server` calls `expire` on each connection, several times a second.
"""

import asyncio
import json
import logging
import re
import sys
import uuid
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import MEDIA_TYPE, Problem
from app.http.outgoing import BEGINNING, Outgoing

logger = logging.getLogger(__name__)

MOST_HEAD_BYTES = 1 << 16
"""Of a request's first line and headers. nginx takes 32 KiB."""
MOST_FRAMING = 8
"""Bytes of a chunked body's framing and trailers, for each byte of the body."""
MOST_EARLY_BYTES = 1 << 16
"""That a client may send ahead of the answer to its last request."""
LOOK_SECONDS, MOST_LOOK_SECONDS = 0.005, 0.5
"""Between two looks whether a client that sends nothing more is still there; they grow longer."""
MOST_DROPPED_BYTES = 1 << 27
"""That a client may go on sending of a request whose answer is complete."""
_HOST = re.compile(rb"([\w.~%!$&'()*+;=-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?", re.ASCII)


class Connection(HttpToolsProtocol):
    """One client's requests, one after the other."""

    arriving_since: float | None = None
    """When the request that has not arrived whole began to, on the loop's clock; while a handler
    reads its body, None."""
    last_answer = False
    """The next answer tells the client that the connection is closed after it."""
    _fed = _body = 0  # bytes of the request: all of them, and those of its body
    _whole = True  # the last request has arrived to its end
    _deaf = False  # what still comes is dropped, and the connection closed after the answer
    _repeating = False  # the parser reads a request's head for the second time
    _data = b""  # what the parser reads
    _dropped = 0  # bytes that came after the answer was complete
    _stopping = False  # the server ends
    _ended = False  # the client sends nothing more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._outgoing = Outgoing(transport, self._more_comes)
        super().connection_made(self._outgoing)
        self._early: list[bytes] = []
        self.arriving_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            self._drop(len(data))
            return
        if self._whole and self._answering():
            self._keep_for_later(data)
            return
        if self.arriving_since is None and self._whole:
            self.arriving_since = self.loop.time()
        self._fed += len(data)
        self._data = data
        super().data_received(data)
        self._data = b""
        if not self._answering() and not self._whole:
            self._drop(len(data))
        if self._fed - (1 + MOST_FRAMING) * self._body > MOST_HEAD_BYTES and not self._whole:
            detail = f"the request's headers have more than {MOST_HEAD_BYTES} bytes"
            self._refuse(Problem(431, "headers-too-large", detail))

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its side, or both; the answer shows which.

        Returns:
            whether to stay connected
        """
        if self._outgoing.lingering or not (self._whole and self._answering()):
            return False
        if not self._ended:
            self._ended = True
            self._look(LOOK_SECONDS)
        if not self._early:
            self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.arriving_since = None
        super().connection_lost(exc)

    def expire(self, now: float, *, arrive_within: float, send_within: float) -> None:
        """Close the connection if its client takes too long.

        Args:
            now: on the loop's clock.
            arrive_within: seconds for the headers of a request, and for the rest of a body whose
                answer is complete.
            send_within: seconds in which a client has to take some of what is sent to it.
        """
        if self.transport is None:
            return
        if self._outgoing.seconds_stalled(now) >= send_within:
            # Not close: that would wait for the client to take the rest.
            unsent = self._outgoing.unsent()
            logger.info("client reads nothing", extra={"unsent_bytes": unsent})
            self.transport.abort()
        elif self.arriving_since is not None and now - self.arriving_since >= arrive_within:
            self.arriving_since = None
            if self._outgoing.lingering:
                self._outgoing.end()
            elif self._whole:
                self.transport.close()  # nothing of a request has come
            else:
                detail = f"the request did not arrive within {arrive_within:g} seconds"
                self._refuse(Problem(408, "request-timeout", detail))

    def shutdown(self) -> None:
        self._stopping = True
        if self._outgoing.lingering:
            self._outgoing.end()
        super().shutdown()

    # ---- of the parser ----

    def on_message_begin(self) -> None:
        if self._repeating:
            return
        self._whole = False
        self._body = self._dropped = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._repeating:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._repeating:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._repeating:
            return
        if self._answering():
            # A second request, in the same packet as the end of the first. RFC 9112, 9.3.2: the
            # client repeats it when the connection closes after the first answer.
            self._deaf = True
            self.cycle.keep_alive = False
            return
        wrong = _wrong_host(self.headers, self.parser.get_http_version())
        if wrong:
            self._refuse(Problem(400, "malformed-request", wrong))
            return
        self.arriving_since = None
        super().on_headers_complete()
        if self.last_answer and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser takes the body for another protocol
        self._whole = True
        self._fed = 0
        # A body that came after its answer: uvicorn has no limit on what follows then.
        self.arriving_since = None if self._answering() else self.loop.time()
        if not self._deaf:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._whole:
            self.arriving_since = self.loop.time()
        if self._early and not self.transport.is_closing():
            early, self._early = b"".join(self._early), []
            # Not at once: this is called in the middle of a send.
            self.loop.call_soon(self._receive_early, early)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "malformed-request", "what was received is no HTTP request"))

    def _unsupported_upgrade_warning(self) -> None:
        """An offer to go on in another protocol is passed over: the request counts as it is.

        The parser has stopped after the headers. A new one reads the body, told of its framing.
        """
        if self.transport.is_closing():  # the request was refused
            return
        upgrade = sys.exc_info()[1]
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        rest = self._data[upgrade.args[0] :]
        framing = [
            b"%s: %s\r\n" % header
            for header in self.cycle.scope["headers"]
            if header[0] in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        try:
            self._repeating = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(framing))
            self._repeating = False
            self.parser.feed_data(rest)
        except httptools.HttpParserError:
            self.send_400_response("")

    # ---- inside ----

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _more_comes(self) -> bool:
        """Whether to read on, and drop it, though the connection is to be closed."""
        if self._stopping or self._ended or (self._whole and not self._early and not self._deaf):
            return False
        self.arriving_since = self.loop.time()
        self._dropped = 0
        self.flow.resume_reading()
        return True

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > MOST_DROPPED_BYTES and not self._answering():
            self._outgoing.end()

    def _keep_for_later(self, data: bytes) -> None:
        """Read on while a request is answered: else the client's leaving would go unnoticed."""
        self._early.append(data)
        if sum(map(len, self._early)) > MOST_EARLY_BYTES:
            self._early = []
            self._deaf = True
            self.cycle.keep_alive = False

    def _receive_early(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.data_received(data)
        if self._ended and not self.transport.is_closing() and not self.eof_received():
            self.transport.close()

    def _look(self, wait: float) -> None:
        """Notice that the client is gone, while it could as well be waiting for its answer."""
        if self.transport.is_closing():
            return
        if self._outgoing.refused():
            self.transport.abort()
            return
        if self._answering() and not self.cycle.response_started:
            self._outgoing.send_ahead()
        self.loop.call_later(wait, self._look, min(2 * wait, MOST_LOOK_SECONDS))

    def _refuse(self, problem: Problem) -> None:
        """Answer what never became a request, and close."""
        if self.transport.is_closing():
            return
        self._deaf = True
        # No middleware sees it, so what they do for a request is done here.
        request_id = uuid.uuid4().hex
        refused = {"status": problem.status_code, "problem": problem.name, "request_id": request_id}
        logger.info("refused before it was a request", extra=refused)
        self.config.app.state.service.metrics.rejection(problem.name)  # type: ignore[union-attr]
        if not self._answering() or not self.cycle.response_started:
            body = json.dumps(problem.body({"state": {"request_id": request_id}})).encode()
            status = HTTPStatus(problem.status_code)
            self.transport.write(
                b"%s%d %s\r\n" % (BEGINNING, status, status.phrase.encode())
                + b"x-request-id: %s\r\n" % request_id.encode()
                + b"content-type: %s\r\n" % MEDIA_TYPE.encode()
                + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
                + body
            )
        if self._answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def _wrong_host(headers: list[tuple[bytes, bytes]], version: str) -> str:
    """What is wrong with how a request names its host (RFC 9112, 3.2); empty if nothing is."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        return f"a request has one Host header; this one has {len(hosts)}"
    if hosts and not _HOST.fullmatch(hosts[0].strip()):
        found = hosts[0][:100].decode("latin-1")
        return f"the header Host is {found!r}; it must be a name or an address, HOST[:PORT]"
    return ""
