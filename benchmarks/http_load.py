"""A client for load: many requests to /generate over few processor cycles.

Client and server share the cores in these benchmarks, so the client's own work must be small: raw
HTTP/1.1 on asyncio, one connection for each client that lives on, bodies made before the clock
starts, and of an answer only what is needed is parsed.

Definitions, as vLLM's `bench serve` has them. TTFT: request sent to first streamed text. ITL: gap
between two streamed pieces, pooled over all requests. TPOT: (end-to-end - TTFT) / (tokens - 1), for
each request. Goodput: requests per second that meet every stated limit.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_NOUNS = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law
car city community name president team minute idea kid body information back parent face others
level office door health person art war history party result change morning
"""
WORDS = tuple(_NOUNS.split())
"""Each is one token of GPT-2, with the blank before it."""


def prompt(words: int, generator: random.Random) -> str:
    """A text of as many tokens of GPT-2; another one each time."""
    return "".join(f" {generator.choice(WORDS)}" for _ in range(words))


@dataclass(frozen=True)
class Ask:
    """One request."""

    body: bytes
    stream: bool
    kind: str = ""
    """To tell requests apart in the results."""
    path: str = "/generate"


def ask(text: str, new: int, *, stream: bool, kind: str = "", seed: int = 0) -> Ask:
    """A request for `new` tokens, drawn at temperature 0.8, that no end token ends."""
    fields = {"prompt": text, "max_new_tokens": new, "ignore_eos": True, "seed": seed}
    fields |= {"temperature": 0.8, "stream": stream}
    return Ask(json.dumps(fields).encode(), stream, kind)


@dataclass
class Reply:
    """What came back, in seconds of `time.perf_counter`."""

    kind: str
    sent: float
    status: int = 0
    ended: float = 0.0
    tokens: int = 0
    pieces: list[float] = field(default_factory=list)
    """When each streamed piece of text came."""
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200 and not self.error

    @property
    def e2e(self) -> float:
        return self.ended - self.sent

    @property
    def ttft(self) -> float | None:
        return self.pieces[0] - self.sent if self.pieces else None

    @property
    def tpot(self) -> float | None:
        if not self.pieces or self.tokens < 2:
            return None
        return (self.ended - self.pieces[0]) / (self.tokens - 1)

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.pieces, self.pieces[1:], strict=False)]


class Client:
    """One connection, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._headers = (
            f" HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, request: Ask) -> Reply:
        """The reply; an error of the connection is one, too."""
        reply = Reply(request.kind, time.perf_counter())
        try:
            reader, answer = await self._answered(request)
            reply.status = int(answer.split(b" ", 2)[1])
            if b"chunked" in answer.lower():
                await self._read_stream(reader, reply)
            else:
                await self._read_whole(reader, answer, reply)
        except (OSError, EOFError, ValueError, KeyError) as error:
            reply.error = f"{type(error).__name__}: {error}"
            await self.close()
        reply.ended = reply.ended or time.perf_counter()
        return reply

    async def _answered(self, request: Ask) -> tuple[asyncio.StreamReader, bytes]:
        """The head of the answer, and where the rest comes from."""
        head = f"POST {self._prefix}{request.path}{self._headers}{len(request.body)}\r\n\r\n"
        used = self._reader is not None
        while True:
            if self._reader is None or self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            try:
                self._writer.write(head.encode() + request.body)
                return self._reader, await self._reader.readuntil(b"\r\n\r\n")
            except (OSError, asyncio.IncompleteReadError) as error:
                # The server closes connections that were idle for long, as it may.
                if not used or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                    raise
                used = False
                await self.close()

    async def _read_whole(self, reader: asyncio.StreamReader, head: bytes, reply: Reply) -> None:
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        reply.ended = time.perf_counter()
        if reply.status == 200:
            reply.tokens = json.loads(body)["usage"]["completion_tokens"]
        else:
            reply.error = body.decode(errors="replace")[:200]

    async def _read_stream(self, reader: asyncio.StreamReader, reply: Reply) -> None:
        while True:
            size = int(await reader.readline(), 16)
            chunk = await reader.readexactly(size + 2)
            if size == 0:
                return
            now = time.perf_counter()
            # A chunk is one event. Quotes within texts are escaped: none can look like this.
            if b'"usage":{' in chunk:
                reply.ended = now
                data = json.loads(chunk.removeprefix(b"data: "))
                reply.tokens = data["usage"]["completion_tokens"]
            elif b"event: error" in chunk:
                reply.error = chunk.decode(errors="replace")[:200]
            elif b'"text":"' in chunk and b'"text":""' not in chunk:
                reply.pieces.append(now)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):  # the server was quicker
                await self._writer.wait_closed()
        self._reader = self._writer = None


async def at_concurrency(url: str, asks: Sequence[Ask], clients: int) -> list[Reply]:
    """All requests, by so many clients, each of which sends the next when one is answered."""
    waiting = iter(asks)

    async def work() -> list[Reply]:
        client = Client(url)
        replies = [await client.send(request) for request in waiting]
        await client.close()
        return replies

    done = await asyncio.gather(*(work() for _ in range(min(clients, len(asks)))))
    return [reply for replies in done for reply in replies]


async def at_rate(url: str, asks: Sequence[Ask], rate: float, seed: int) -> list[Reply]:
    """All requests, as a Poisson process of `rate` a second, whatever is still unanswered."""
    generator = random.Random(seed)
    idle: list[Client] = []

    async def one(request: Ask) -> Reply:
        client = idle.pop() if idle else Client(url)
        reply = await client.send(request)
        idle.append(client)
        return reply

    tasks, at = [], time.perf_counter()
    for request in asks:
        at += generator.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        tasks.append(asyncio.create_task(one(request)))
    replies = await asyncio.gather(*tasks)
    for client in idle:
        await client.close()
    return list(replies)


@dataclass(frozen=True)
class Limits:
    """What a request must meet to count for goodput; in milliseconds, None is no limit."""

    ttft: float | None = None
    itl: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def met(self, reply: Reply) -> bool:
        values = {
            "ttft": reply.ttft,
            "itl": max(reply.gaps, default=0.0),
            "tpot": reply.tpot,
            "e2e": reply.e2e,
        }
        limits = {name: limit for name, limit in vars(self).items() if limit is not None}
        # What was not measured, as the TTFT of an answer in one piece, meets no limit.
        return reply.ok and all(
            (value := values[name]) is not None and value * 1000 <= limit
            for name, limit in limits.items()
        )


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p95, p99 by the nearest rank, and n; of seconds, in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {
        f"p{p}": round(1000 * ordered[max(0, -(-p * len(ordered) // 100) - 1)], 2)
        for p in (50, 95, 99)
    }
    return {**found, "n": len(ordered)}


def summary(replies: Sequence[Reply], limits: Limits) -> dict[str, Any]:
    """All the figures of a run."""
    good = [reply for reply in replies if reply.ok]
    seconds = max(r.ended for r in replies) - min(r.sent for r in replies)
    found: dict[str, Any] = {
        "requests": len(replies),
        "failed": len(replies) - len(good),
        "first_error": next((r.error or str(r.status) for r in replies if not r.ok), ""),
        "seconds": round(seconds, 3),
        "tokens_per_s": round(sum(r.tokens for r in good) / seconds, 2),
        "requests_per_s": round(len(good) / seconds, 3),
        "goodput_per_s": round(sum(map(limits.met, replies)) / seconds, 3),
        "limits_ms": {k: v for k, v in vars(limits).items() if v is not None},
        "ttft_ms": percentiles(r.ttft for r in good if r.ttft is not None),
        "itl_ms": percentiles(gap for r in good for gap in r.gaps),
        "tpot_ms": percentiles(r.tpot for r in good if r.tpot is not None),
        "e2e_ms": percentiles(r.e2e for r in good),
    }
    return found
