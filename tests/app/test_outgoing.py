"""What a client has taken of its answer, over real sockets and on a clock of the test's own."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
import uvloop

from app.http import outgoing
from app.http.outgoing import SMALL_BUFFER, Outgoing

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what has arrived")


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Outgoing, socket.socket]]:
    """The server's end of a connection, and the client's."""
    made: asyncio.Future[Outgoing] = asyncio.get_running_loop().create_future()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(Outgoing(cast(asyncio.Transport, transport)))

    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
    client.setblocking(False)
    address = server.sockets[0].getsockname()
    await asyncio.get_running_loop().sock_connect(client, address)
    server_side = await made
    try:
        yield server_side, client
    finally:
        server_side.abort()
        client.close()
        server.close()


async def take(client: socket.socket, size: int) -> None:
    while size > 0:
        piece = await asyncio.get_running_loop().sock_recv(client, size)
        assert piece
        size -= len(piece)


def run(loop: Callable[[], Any], test: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())


@linux
@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_taken_counts_though_the_buffer_does_not_move(loop: Any) -> None:
    async def test() -> None:
        async with connected() as (server_side, client):
            server_side.write(bytes(1 << 24))
            await take(client, 1 << 20)
            unmoved = 0
            for second in range(20):
                buffered, unsent = server_side.get_write_buffer_size(), server_side.unsent()
                await take(client, 1 << 17)
                while server_side.unsent() >= unsent:  # its news is on the way
                    await asyncio.sleep(0.001)
                unmoved += server_side.get_write_buffer_size() == buffered
                assert server_side.seconds_stalled(100.0 * second) == 0
            assert unmoved > 3  # else there was nothing to show

    run(loop, test)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [100_000, 1 << 24])
def test_a_client_that_takes_nothing_is_stalled_whatever_is_written(loop: Any, size: int) -> None:
    async def test() -> None:
        async with connected() as (server_side, _):
            server_side.write(bytes(size))
            before = -1
            while server_side.unsent() != before:  # until its window is full
                before = server_side.unsent()
                await asyncio.sleep(0.3)
            assert server_side.unsent() > 0
            server_side.seconds_stalled(10.0)
            for second in (11.0, 15.0, 40.0):
                assert server_side.seconds_stalled(second) == second - 10
                server_side.write(bytes(5000))

    run(loop, test)


@linux
@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_is_slower_than_its_answer_takes_some_of_it(loop: Any) -> None:
    """As of a stream: there is always more for it than before."""

    async def test() -> None:
        async with connected() as (server_side, client):
            server_side.write(bytes(1 << 19))
            await take(client, 1 << 17)
            for second in range(10):
                unsent = server_side.unsent()
                await take(client, 1 << 15)
                while server_side.unsent() >= unsent:
                    await asyncio.sleep(0.001)
                server_side.write(bytes(1 << 16))
                assert server_side.unsent() > unsent
                assert server_side.seconds_stalled(100.0 * second) == 0

    run(loop, test)


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_left_to_take_is_no_stall(loop: Any) -> None:
    async def test() -> None:
        async with connected() as (server_side, client):
            server_side.write(b"all")
            await take(client, 3)
            while server_side.unsent():
                await asyncio.sleep(0.001)
            assert server_side.seconds_stalled(5.0) == 0
            assert server_side.seconds_stalled(500.0) == 0

    run(loop, test)


@pytest.mark.parametrize("loop", LOOPS)
def test_where_the_kernel_does_not_say_it_holds_little(
    loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "_unacknowledged", lambda connection: None)

    async def test() -> None:
        async with connected() as (server_side, client):
            kernel = server_side.get_extra_info("socket")
            # Linux counts twice what is asked for.
            assert kernel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SMALL_BUFFER
            server_side.write(bytes(1 << 23))
            buffered = server_side.get_write_buffer_size()
            await take(client, 4 * SMALL_BUFFER)
            while server_side.get_write_buffer_size() >= buffered:
                await asyncio.sleep(0.001)
            assert server_side.seconds_stalled(50.0) == 0

    run(loop, test)
