"""Clients that put several replicas under load, and see what becomes of each request."""

import concurrent.futures
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

SLOTS = 4
TOKENS = 600
LONG = 2500
"""Tokens of a stream that is still running when something happens to its replica."""
SEEDS = 4


def body(seed: int, tokens: int = TOKENS) -> dict[str, Any]:
    return {
        "prompt": "The old man",
        "max_new_tokens": tokens,
        "temperature": 1,
        "seed": seed,
        "ignore_eos": True,
        "stream": True,
    }


def text_of(stream: bytes) -> str:
    """The text of a complete stream.

    Raises:
        AssertionError: it is not complete.
    """
    blocks = stream.decode().split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""], blocks[-2:]
    return "".join(json.loads(block.removeprefix("data: "))["text"] for block in blocks[:-2])


@dataclass
class Answered:
    started: float
    ended: float
    status: int
    problem: str | None


@dataclass
class Load:
    """Clients that stream one text after the other, and compare each with the single service's."""

    url: str
    expected: dict[int, str]
    clients: int
    tokens: int = TOKENS
    answers: list[Answered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(self.clients)

    def __enter__(self) -> "Load":
        self._running = [self._pool.submit(self._run, number) for number in range(self.clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for client in self._running:
            client.result()

    def failures(self) -> list[Answered]:
        return [answer for answer in self.answers if answer.problem is not None]

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            for seed in itertools.cycle(range(SEEDS)):
                if self._stop.is_set():
                    return
                own = (seed + number) % SEEDS
                started, status = time.monotonic(), 0
                problem: str | None = None
                try:
                    answer = client.post("/generate", json=body(own, self.tokens))
                    status = answer.status_code
                    if status != 200:
                        problem = answer.text[:200]
                    elif text_of(answer.content) != self.expected[own]:
                        problem = "another text"
                except (httpx.TransportError, AssertionError) as error:
                    problem = repr(error)
                self.answers.append(Answered(started, time.monotonic(), status, problem))
