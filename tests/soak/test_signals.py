"""Signals under load: requests that were taken finish, and nothing is left behind."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .server import Running, running

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

GRACE = 60
WAITING = "penwright_requests_waiting"


class Traffic:
    """Clients that ask one thing after another, until the server does not take it any more."""

    def __init__(self, server: Running, clients: int) -> None:
        self.server = server
        self.clients = clients
        self.whole = 0
        self.refused = 0
        self.cut: list[str] = []

    async def run(self, process: Any, stop: Any) -> None:
        tasks = [asyncio.create_task(self._client(number)) for number in range(self.clients)]
        await asyncio.to_thread(self._under_way)
        stop(process)
        await asyncio.gather(*tasks)

    def _under_way(self) -> None:
        deadline = time.monotonic() + 60
        while self.whole < self.clients or self.server.metrics()[WAITING] < self.clients / 4:
            assert time.monotonic() < deadline, "no traffic"

    async def _client(self, number: int) -> None:
        body = {"prompt": f"{number} men", "max_new_tokens": 60, "ignore_eos": True}
        body |= {"stream": number % 2 == 0}
        while True:
            try:
                async with httpx.AsyncClient(
                    base_url=self.server.url, timeout=120, verify=False
                ) as client:
                    answer = await client.post("/generate", json=body)
            except httpx.ConnectError:
                return  # it has ended
            except httpx.HTTPError as error:
                self.cut.append(repr(error))
                return
            if answer.status_code == 503:
                assert answer.json()["type"].endswith(":draining")
                self.refused += 1
                await asyncio.sleep(0.05)
            elif answer.status_code != 200 or '"completion_tokens":60' not in answer.text:
                self.cut.append(answer.text[-200:])
            else:
                self.whole += 1


def test_sigterm_under_load(tmp_path: Path) -> None:
    flags = ("--drain-timeout", str(GRACE), "--slots", "8", "--log-level", "warning")
    with running(tmp_path, *flags) as server:
        family = [
            psutil.Process(server.process.pid),
            *psutil.Process(server.process.pid).children(),
        ]
        traffic = Traffic(server, 32)
        moments = []

        def stop(process: Any) -> None:
            moments.append(time.monotonic())
            process.send_signal(signal.SIGTERM)

        asyncio.run(traffic.run(server.process, stop))
        assert server.process.wait(GRACE) == 0
        seconds = time.monotonic() - moments[0]
        counts = f"{traffic.whole} whole, {traffic.refused} refused"
        print(f"\nended {seconds:.1f} s after the signal; {counts}")  # noqa: T201
        assert not traffic.cut
        assert traffic.whole >= 32
        assert traffic.refused > 0
        assert seconds < GRACE + 8
        assert not [process for process in family if process.is_running()]
        assert "Traceback" not in server.log.read_text()


def test_sigkill_under_load_and_the_next_start(tmp_path: Path) -> None:
    with running(tmp_path, "--log-level", "warning") as server:
        traffic = Traffic(server, 16)
        asyncio.run(traffic.run(server.process, lambda process: process.kill()))
        assert traffic.cut  # what ran is lost, and its clients see it
        assert server.process.wait(10) == -signal.SIGKILL
        port = httpx.URL(server.url).port
        for number in range(3):
            with running(tmp_path, "--log-level", "warning", port=port) as again:
                again.assert_idle()
                assert again.url == server.url
                if number:  # while it loads its models a second time
                    again.process.send_signal(signal.SIGHUP)
                    time.sleep(0.2)
                again.process.kill()
                again.process.wait()
