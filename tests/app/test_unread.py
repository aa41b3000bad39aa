"""Answers that nobody reads: the real app, with connections that take what the test lets them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.http import unread
from app.keys.key_file import KeyEntry, digest, dump_entries

from .conftest import Live, serve

BODY = {"model": "base", "input": [[1, 2]] * 700}  # an answer of more than 64 KB
KEYS = ("pw-first-0123456789", "pw-second-0123456789")


class Reader:
    """A client that asks, and takes of its answer what comes before it stops."""

    def __init__(self, live: Live, key: str, *, reads: bool = False) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.pieces: list[int] = []
        self.begun = threading.Event()
        [engine_client] = live.service.engine_clients()
        self._loop = engine_client._loop
        self._go = asyncio.Event()
        if reads:
            self._go.set()
        self._sent = [{"type": "http.request", "body": json.dumps(BODY).encode()}]
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/embeddings",
            "raw_path": b"/v1/embeddings",
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        app: Any = live.server.config.app
        call = app(scope, self._receive, self._send)
        self.done = asyncio.run_coroutine_threadsafe(call, self._loop)

    async def _receive(self) -> Any:
        if self._sent:
            return self._sent.pop()
        return await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        self.begun.set()
        await self._go.wait()
        self.body += message["body"]
        self.pieces.append(len(message["body"]))

    def read(self) -> Any:
        """Read to the end."""
        self._loop.call_soon_threadsafe(self._go.set)
        self.done.result(60)
        return json.loads(self.body)


@pytest.fixture
def two_keys(checkpoints: Path, tmp_path: Path) -> Iterator[Live]:
    file = tmp_path / "keys.json"
    entries = [KeyEntry(label=key[3:8], sha256=digest(key)) for key in KEYS]
    file.write_bytes(dump_entries(entries))
    with serve(models=checkpoints, api_keys=file) as live:
        yield live


@pytest.mark.parametrize("whose", ["MOST_KEY_BYTES", "MOST_BYTES"])
def test_what_is_not_read_is_bounded(
    two_keys: Live, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    first = Reader(two_keys, KEYS[0], reads=True)
    assert len(first.read()["data"]) == 700
    size = len(first.body)
    assert first.headers["content-length"] == str(size)
    assert size > unread.PIECE_BYTES
    assert max(first.pieces) == unread.PIECE_BYTES
    monkeypatch.setattr(unread, whose, int(size * 2.5))
    waiting = [Reader(two_keys, KEYS[0]) for _ in range(2)]
    for reader in waiting:
        assert reader.begun.wait(60)
        assert reader.status == 200
    refused = Reader(two_keys, KEYS[0], reads=True)
    error = refused.read()["error"]
    assert refused.status == (429 if whose == "MOST_KEY_BYTES" else 503)
    assert error["code"] == "unread_answers"
    assert f"{size * 2} bytes of answers" in error["message"]
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-length"] == str(len(refused.body))
    # Another key has its own count, and shares that of all.
    other = Reader(two_keys, KEYS[1], reads=True)
    other.read()
    assert other.status == (200 if whose == "MOST_KEY_BYTES" else 503)
    # Small answers are always given.
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    assert two_keys.client.post("/tokenize", json={"text": "a"}, headers=headers).is_success
    assert waiting[0].read() == first.read()
    again = Reader(two_keys, KEYS[0], reads=True)
    assert len(again.read()["data"]) == 700
    waiting[1].read()


def test_one_answer_is_given_however_large(two_keys: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MOST_KEY_BYTES", 1)
    monkeypatch.setattr(unread, "MOST_BYTES", 1)
    for _ in range(2):
        assert len(Reader(two_keys, KEYS[0], reads=True).read()["data"]) == 700


def test_who_breaks_off_no_longer_counts(two_keys: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MOST_KEY_BYTES", 1)
    waiting = Reader(two_keys, KEYS[0])
    assert waiting.begun.wait(60)
    refused = Reader(two_keys, KEYS[0], reads=True)
    refused.read()
    assert refused.status == 429
    waiting.done.cancel()
    two_keys.wait(lambda: two_keys.service.in_flight == 0)
    assert len(Reader(two_keys, KEYS[0], reads=True).read()["data"]) == 700
