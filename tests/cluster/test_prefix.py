"""One service behind HAProxy at a part of its paths: the prefix is passed on, or taken off."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.app.conftest import free_port, serve
from tests.app.test_prefix import addresses
from tests.app.with_keys import USER, bearer, write_keys

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]

PREFIX = "/team/models"
CONFIG = """
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend front
    bind 127.0.0.1:{port}
    http-request del-header X-Forwarded-Prefix
    http-request deny deny_status 410 unless {{ path {prefix} }} || {{ path_beg {prefix}/ }}
{rules}
    default_backend back
backend back
    server one {server}
"""
OFF = f"    http-request replace-path {PREFIX}/?(.*) /\\1"
SAID = f"    http-request set-header X-Forwarded-Prefix {PREFIX}"
WAYS = {
    "passed on": ("", PREFIX),
    "taken off": (OFF, PREFIX),
    "taken off, told by the proxy": (f"{SAID}\n{OFF}", ""),
    "taken off, told by nobody": (OFF, ""),
}
"""Rules of the proxy, and the setting of the service."""


@dataclass(frozen=True)
class Behind:
    url: str
    """Of the proxy, without the prefix."""
    told: bool
    """Whether the service knows its prefix."""


@pytest.fixture(scope="module", params=WAYS)
def behind(
    request: pytest.FixtureRequest, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    rules, root_path = WAYS[request.param]
    tmp_path = tmp_path_factory.mktemp("haproxy")
    with serve(models=checkpoints, api_keys=write_keys(tmp_path), root_path=root_path) as live:
        port = free_port()
        file = tmp_path / "haproxy.cfg"
        server = live.url.removeprefix("http://")
        file.write_text(CONFIG.format(port=port, prefix=PREFIX, rules=rules, server=server))
        with (tmp_path / "haproxy.log").open("w") as log:
            proxy = subprocess.Popen(["haproxy", "-db", "-f", str(file)], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 30
            while not _answers(f"{url}{PREFIX}/healthz"):
                running = proxy.poll() is None and time.monotonic() < deadline
                assert running, (tmp_path / "haproxy.log").read_text()
                time.sleep(0.05)
            yield Behind(url, bool(root_path) or "X-Forwarded-Prefix" in rules)
        finally:
            proxy.kill()
            proxy.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_pages_lead_to_what_is_below_the_prefix(behind: Behind) -> None:
    with httpx.Client(base_url=behind.url, timeout=60) as client:
        for start in ("", "/", "/docs"):
            if not start and not behind.told:
                continue  # nobody can know that it is not the page of the proxy's root
            page = client.get(f"{PREFIX}{start}")
            assert page.status_code == 200
            for name in addresses(page.text):
                address = urljoin(str(page.url), name)
                assert address.startswith(f"{behind.url}{PREFIX}/")
                assert client.get(address).status_code == 200, name
        found = client.get(f"{PREFIX}/openapi.json")
        [server] = found.json()["servers"]
        root = urljoin(str(found.url), server["url"]).rstrip("/")
        assert root == f"{behind.url}{PREFIX}"
        answer = client.post(f"{root}/tokenize", json={"text": "a"}, headers=bearer(USER))
        assert answer.status_code == 200


def test_redirects_stay_below_the_prefix(behind: Behind) -> None:
    with httpx.Client(base_url=behind.url, follow_redirects=True, timeout=60) as client:
        body = {"text": "a"}
        answer = client.post(f"{PREFIX}/tokenize/?a=b", json=body, headers=bearer(USER))
        assert answer.status_code == 200
        assert len(answer.history) == 1
        assert str(answer.url) == f"{behind.url}{PREFIX}/tokenize?a=b"


def test_keys_are_needed_below_the_prefix(behind: Behind) -> None:
    with httpx.Client(base_url=behind.url, timeout=60) as client:
        for forged in ({}, {"X-Forwarded-Prefix": "/healthz"}, {"X-Forwarded-Prefix": "/team"}):
            for path in ("/metrics", "/generate", "/v1/models", f"{PREFIX}/metrics", "//healthz"):
                answer = client.get(f"{PREFIX}{path}", headers=forged)
                assert answer.status_code == 401, path
            assert client.get(f"{PREFIX}/readyz", headers=forged).status_code == 200
