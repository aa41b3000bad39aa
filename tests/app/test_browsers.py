"""Without keys: who is served all the same, and which web pages are not."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import cli
from app.http.browsers import is_loopback
from app.main import create_app
from app.settings import Settings
from model.errors import UsageError

from .conftest import Live
from .with_keys import ENV, USER, asgi, bearer, write_keys


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "example.com", "127.0.0.1.nip.io"]
)
def test_it_does_not_listen_for_others_without_a_key(host: str, tmp_path: Path) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="PENWRIGHT_ALLOW_ANONYMOUS=1"):
        create_app(Settings(host=host))
    create_app(Settings(host=host, allow_anonymous=True))
    create_app(Settings(host=host, api_key=ENV))
    create_app(Settings(host=host, api_keys=write_keys(tmp_path)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_on_a_loopback_address_it_needs_none(host: str) -> None:
    create_app(Settings(host=host))


def test_the_program_refuses_in_a_line_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--host", "0.0.0.0", "--port", "0"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("penwright-serve: --host (PENWRIGHT_HOST) is '0.0.0.0'")
    assert len(text.splitlines()) == 1


def test_another_server_that_listens_for_others_is_noticed(checkpoints: Path) -> None:
    async def statuses(app: Any, server: Any, path: str) -> int:
        async def with_server(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "server": server}, receive, send)

        async with asgi(with_server) as client:
            return (await client.get(path)).status_code

    app = create_app(Settings(models=checkpoints))
    allowed = create_app(Settings(models=checkpoints, allow_anonymous=True))
    for server, expected in (
        (("192.168.1.4", 8000), 403),
        (("2001:db8::1", 8000), 403),
        (("127.0.0.1", 8000), 503),
        (("::1", 8000), 503),
        (("::ffff:127.0.0.1", 8000), 503),
        (("/run/penwright.sock", None), 503),
        (None, 503),
    ):
        assert asyncio.run(statuses(app, server, "/models")) == expected, server
        assert asyncio.run(statuses(app, server, "/healthz")) == 200
        assert asyncio.run(statuses(allowed, server, "/models")) == 503  # it is loading


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("10.1.2.3:80", 200),
        ("penwright", 200),
        ("penwright.LOCALHOST", 200),
        ("penwright.svc.cluster.local.", 200),
        ("own.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_a_page_that_has_its_name_point_here_is_refused(
    host: str, status: int, named: Live, guarded: Live
) -> None:
    answer = named.client.get("/models", headers={"Host": host})
    assert answer.status_code == status, answer.text
    if status == 403:
        assert "--allowed-hosts" in answer.json()["detail"]
    # With keys, the name does not matter: a page has none.
    headers = {"Host": host, **bearer(USER)}
    assert guarded.client.get("/models", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["user@evil.example", "[::1"])
def test_what_is_no_host_at_all_is_refused_with_or_without_keys(
    host: str, named: Live, guarded: Live
) -> None:
    for live, headers in ((named, {}), (guarded, bearer(USER))):
        answer = live.client.get("/models", headers={"Host": host, **headers})
        assert answer.status_code == 400
        assert host in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost", "Host": "localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://behind.a.proxy", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://good.example", "Sec-Fetch-Site": "cross-site"}, 200),
    ],
)
def test_pages_of_other_origins_cannot_send_work(
    headers: dict[str, str], status: int, named: Live
) -> None:
    answer = named.client.post("/tokenize", json={"text": "a"}, headers=headers)
    assert answer.status_code == status, answer.text


def test_all_bodies_must_say_that_they_are_json(client: httpx.Client) -> None:
    """Other types are what a form of any page can send unasked."""
    description = client.get("/openapi.json").json()["paths"]
    posts = [path for path, operations in description.items() if "post" in operations]
    assert len(posts) >= 8
    for path in posts:
        for kind in (None, "text/plain", "application/x-www-form-urlencoded"):
            headers = {} if kind is None else {"Content-Type": kind}
            content = b'{"prompt": "a", "text": "a", "instruction": "a"}'
            answer = client.post(path, content=content, headers=headers)
            assert answer.status_code in (400, 403, 422), path
            if path != "/admin/reload":
                assert "application/json" in answer.text
