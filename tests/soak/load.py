"""Requests of all kinds, right and wrong, drawn at random: always the same for the same seed."""

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

WORDS = ["the", "old", "man", "and", "sea", "win", "free", "prize", "call", "now", "ok", "later"]


@dataclass(frozen=True)
class Call:
    """A request, and the answers that it may get."""

    kind: str
    path: str
    body: dict[str, Any]
    statuses: frozenset[int] = frozenset({200, 429})
    leave_after: float | None = None
    """Seconds after which the client leaves, whether it has its answer or not."""

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass
class Tally:
    """What became of the calls."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By path and status; of clients that stayed."""
    kinds: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    """By path: clients that went away before the end."""
    errors: list[str] = field(default_factory=list)
    """Answers that were not among those allowed."""


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words))


def draw_call(draw: random.Random) -> Call:
    """One call; about a tenth are wrong on purpose, and a tenth are not waited for."""
    new = draw.randint(1, 24)
    generate = {"prompt": text(draw, draw.randint(1, 60)), "max_new_tokens": new}
    leave = draw.expovariate(20) if draw.random() < 0.1 else None
    refused = frozenset({422})
    calls = [
        *[Call("generate", "/generate", generate, leave_after=leave)] * 3,
        *[Call("stream", "/generate", {**generate, "stream": True}, leave_after=leave)] * 3,
        Call("batch", "/generate", {**generate, "prompt": [text(draw, 5)] * 3, "n": 2}),
        Call("logprobs", "/generate", {**generate, "logprobs": 3, "seed": draw.randrange(9)}),
        *[Call("classify", "/classify", {"text": text(draw, draw.randint(1, 40))})] * 3,
        Call("classify-batch", "/classify", {"text": [text(draw, 8) for _ in range(4)]}),
        *[Call("instruct", "/instruct", {"instruction": text(draw, 6), "max_new_tokens": new})] * 2,
        Call("tokenize", "/tokenize", {"text": text(draw, 30)}, frozenset({200})),
        Call("wrong-type", "/generate", {"prompt": 3}, refused),
        Call("wrong-range", "/generate", {**generate, "temperature": -1}, refused),
        Call("too-long", "/classify", {"text": text(draw, 5000)}, frozenset({400})),
        Call("no-model", "/generate", {**generate, "model": "none"}, frozenset({404})),
    ]
    return draw.choice(calls)


async def make(client: httpx.AsyncClient, call: Call, tally: Tally) -> None:
    """Make one call and enter what became of it."""
    tally.kinds[call.kind] += 1
    try:
        async with asyncio.timeout(call.leave_after):
            status, problem = await _answer(client, call)
    except TimeoutError:
        tally.left[call.path] += 1
        return
    except httpx.HTTPError as error:
        tally.errors.append(f"{call.kind}: {error!r}")
        return
    tally.answers[call.path, status] += 1
    if status not in call.statuses or problem:
        tally.errors.append(f"{call.kind}: {status} {problem}")


async def _answer(client: httpx.AsyncClient, call: Call) -> tuple[int, str]:
    """The status, and what is wrong with a stream that did not come to its end."""
    async with client.stream("POST", call.path, json=call.body) as answer:
        content = await answer.aread()
    if call.streams and answer.status_code == 200 and not content.endswith(b"data: [DONE]\n\n"):
        return 200, content[-200:].decode()
    if answer.status_code >= 500:
        return answer.status_code, answer.text
    return answer.status_code, ""


async def drive(url: str, calls: int, clients: int, seed: int) -> Tally:
    """Make `calls` calls, from as many clients at once, each with a connection of its own."""
    tally = Tally()
    left = iter(range(calls))

    async def one(number: int) -> None:
        draw = random.Random(f"{seed}-{number}")
        async with httpx.AsyncClient(base_url=url, timeout=120, verify=False) as client:
            for _ in left:
                await make(client, draw_call(draw), tally)

    await asyncio.gather(*(one(number) for number in range(clients)))
    return tally


async def vanish(url: str, number: int, draw: random.Random) -> None:
    """A client that goes away at a moment of its own, half of them with a RST."""
    address = httpx.URL(url)
    long = {"prompt": text(draw, draw.choice((3, 100))), "max_new_tokens": 120, "ignore_eos": True}
    path = draw.choice(("/generate", "/generate", "/classify", "/instruct"))
    bodies = {
        "/generate": {**long, "stream": draw.random() < 0.5, "n": draw.choice((1, 1, 4))},
        "/classify": {"text": [text(draw, 100)] * 8},
        "/instruct": {"instruction": text(draw, 60), "max_new_tokens": 100},
    }
    request = httpx.Request("POST", url + path, json=bodies[path])
    head = f"POST {path} HTTP/1.1\r\n".encode()
    head += b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw) + b"\r\n"
    reader, writer = await asyncio.open_connection(address.host, address.port)
    whole = head + request.read()
    moment = number % 5
    rude = draw.random() < 0.5
    try:
        if moment == 0:  # within the headers
            writer.write(head[: draw.randrange(len(head))])
        elif moment == 1:  # within the body
            writer.write(whole[: draw.randrange(len(head), len(whole))])
        else:
            writer.write(whole)
        if moment == 3:  # in the queue, during prefill, or while it decodes
            await asyncio.sleep(draw.expovariate(5))
        if moment == 4:  # when something of the answer has come
            async with asyncio.timeout(20):
                await reader.read(draw.randint(1, 3000))
        await asyncio.sleep(0)
    except (ConnectionError, TimeoutError):
        rude = True
    if rude:
        set_linger(writer)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def set_linger(writer: asyncio.StreamWriter) -> None:
    """Have the connection closed with a RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
