"""What `app.http` takes of uvicorn's inside is there, and is what it is taken for.

uvicorn promises none of it. pyproject.toml bounds its version by what these tests, and those of
connections, have seen; a version beyond fails here, by name, and not in the middle of a request.
"""

import ast
import asyncio
import inspect
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.http.connections import Connection
from app.http.server import Server

PROTOCOL = {
    "connection_made": ["transport"],
    "connection_lost": ["exc"],
    "data_received": ["data"],
    "eof_received": [],
    "shutdown": [],
    "on_message_begin": [],
    "on_url": ["url"],
    "on_header": ["name", "value"],
    "on_headers_complete": [],
    "on_body": ["body"],
    "on_message_complete": [],
    "on_response_complete": [],
    "send_400_response": ["msg"],
    "_unsupported_upgrade_warning": [],
}
"""Methods of its protocol that `Connection` puts others in the place of, and their parameters."""
OF_PROTOCOL = {"config", "cycle", "flow", "headers", "loop", "parser", "transport"}
OF_CYCLE = {
    "disconnected": bool,
    "keep_alive": bool,
    "message_event": asyncio.Event,
    "response_complete": bool,
    "response_started": bool,
    "scope": dict,
}
SERVER = {"handle_exit": ["sig", "frame"], "on_tick": ["counter"], "shutdown": ["sockets"]}
OF_SERVER = {"force_exit", "server_state", "servers", "should_exit"}

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def used(own: type) -> set[str]:
    """Names of attributes of `self` that a class uses and does not define, those of `self.cycle` as
    `cycle.NAME`."""
    found, defined = set(), set(vars(own)) | set(own.__annotations__)
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(own)))):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if owner == "self" and isinstance(node.ctx, ast.Store) and node.attr not in FOREIGN:
            defined.add(node.attr)
        elif owner == "self":
            found.add(node.attr)
        elif owner in ("self.cycle", "super()"):
            found.add(f"{owner.removeprefix('self.')}.{node.attr}")
    return found - defined


FOREIGN = OF_PROTOCOL | OF_SERVER
"""Some of these are set here."""


def answered(application: Application) -> tuple[HttpToolsProtocol, Wire]:
    """uvicorn's own protocol after a request."""

    async def ask() -> tuple[HttpToolsProtocol, Wire]:
        config = uvicorn.Config(application, log_config=None, ws="none", lifespan="off")
        state = ServerState()
        loop = asyncio.get_running_loop()
        config.load()
        protocol, wire = HttpToolsProtocol(config, state, {}, loop), Wire()
        protocol.connection_made(wire)
        assert state.connections == {protocol}
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await asyncio.gather(*state.tasks)
        return protocol, wire

    return asyncio.run(ask())


async def hello(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.mark.parametrize(
    ("ours", "theirs", "methods"),
    [(Connection, HttpToolsProtocol, PROTOCOL), (Server, uvicorn.Server, SERVER)],
)
def test_methods_stand_in_the_place_of_methods_with_the_same_parameters(
    ours: type, theirs: type, methods: dict[str, list[str]]
) -> None:
    for name, parameters in methods.items():
        for owner in (ours, theirs):
            assert [*inspect.signature(vars(owner)[name]).parameters] == ["self", *parameters], name
        asynchronous = {inspect.iscoroutinefunction(vars(o)[name]) for o in (ours, theirs)}
        assert len(asynchronous) == 1, name
    both = {name for name in vars(ours).keys() & vars(theirs).keys() if not name.startswith("__")}
    assert both == methods.keys()


def test_nothing_is_used_that_is_not_listed_here() -> None:
    of_protocol = used(Connection)
    methods = {name for name in of_protocol if name.startswith("super().")}
    assert methods <= {f"super().{name}" for name in PROTOCOL}
    cycle = {name for name in of_protocol if name.startswith("cycle.")}
    assert cycle == {f"cycle.{name}" for name in OF_CYCLE}
    assert of_protocol - methods - cycle == OF_PROTOCOL
    of_server = used(Server)
    methods = {name for name in of_server if name.startswith("super().")}
    assert methods <= {f"super().{name}" for name in ("__init__", *SERVER)}
    assert of_server - methods == OF_SERVER


def test_a_protocol_has_what_is_used_of_it() -> None:
    protocol, wire = answered(hello)
    assert wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.written.endswith(b"\r\n\r\nhi")
    assert vars(protocol).keys() >= OF_PROTOCOL
    # Whatever is given as transport is written to: ours counts.
    assert protocol.transport is protocol.cycle.transport is wire
    assert isinstance(protocol.config, uvicorn.Config)
    assert isinstance(protocol.flow, FlowControl)
    assert isinstance(protocol.parser, httptools.HttpRequestParser)
    assert protocol.headers == [(b"host", b"here")]
    protocol.flow.resume_reading()
    for name, kind in OF_CYCLE.items():
        assert isinstance(getattr(protocol.cycle, name), kind), name
    assert protocol.cycle.response_complete
    assert protocol.cycle.keep_alive
    assert protocol.cycle.scope["headers"] == protocol.headers


def test_a_cycle_that_is_not_to_keep_its_connection_closes_it() -> None:
    """It is told so while it answers."""

    async def last(scope: Any, receive: Any, send: Any) -> None:
        cycle = send.__self__
        assert not cycle.response_started
        assert not cycle.response_complete
        cycle.keep_alive = False
        await hello(scope, receive, send)

    _, wire = answered(last)
    assert b"connection: close\r\n" in wire.written
    assert wire.closing


def test_a_server_has_what_is_used_of_it() -> None:
    async def look() -> tuple[set[str], bool]:
        config = uvicorn.Config(hello, port=0, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        assert (server.started, server.should_exit, server.force_exit) == (False, False, False)
        assert server.server_state.connections == set()
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        try:
            assert server.started
            [listening] = server.servers
            assert listening.sockets
            return set(vars(server)), await server.on_tick(1)
        finally:
            await server.shutdown()

    names, ends = asyncio.run(look())
    assert names >= OF_SERVER
    assert not ends


def test_whom_it_trusts_can_be_asked() -> None:
    config = uvicorn.Config(hello, forwarded_allow_ips="10.0.0.0/8,::1", log_config=None)
    config.load()
    proxies = ProxyHeadersMiddleware(config.loaded_app, config.forwarded_allow_ips).trusted_hosts
    asked = ("10.1.2.3", "::1", "127.0.0.1", None)
    assert [address in proxies for address in asked] == [True, True, False, False]
