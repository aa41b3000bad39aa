"""Compiling a `response_format`: few at a time, and within the time of its request."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from app.engine.client import EngineClient
from app.engine.constraint_compiler import ConstraintCompiler
from app.engine.events import SequenceEvents
from app.errors import Problem
from model.engine.engine import Engine
from model.engine.request import Constraint, Request
from tests.app.conftest import Live


class Slow:
    """Compiles when it is let; counts."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun: list[str] = []

    def prepare(self, constraint: Constraint, count: int) -> None:
        self.begun.append(constraint.value)
        assert self.go.wait(10)


def compile_many(
    engine: Slow, names: Sequence[str]
) -> tuple[ConstraintCompiler, list[asyncio.Task[None]]]:
    compiler = ConstraintCompiler(cast(Engine, engine))
    wanted = [Constraint("regex", name) for name in names]
    return compiler, [asyncio.create_task(compiler.prepare(each, 1)) for each in wanted]


def test_those_that_come_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.constraint_compiler._MOST_WAITING", 1)

    async def scenario() -> list[Any]:
        engine = Slow()
        _, tasks = compile_many(engine, "abcde")
        await asyncio.sleep(0.05)
        engine.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(scenario())
    assert results[:3] == [None] * 3
    assert [getattr(result, "status_code", None) for result in results[3:]] == [429, 429]
    assert isinstance(results[3], Problem)


def test_who_leaves_before_his_turn_costs_nothing() -> None:
    async def scenario() -> list[str]:
        engine = Slow()
        compiler, tasks = compile_many(engine, "abcd")
        await asyncio.sleep(0.05)
        tasks[0].cancel()  # its thread goes on, and keeps its turn
        tasks[2].cancel()
        await asyncio.sleep(0.05)
        assert engine.begun == ["a", "b"]
        engine.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await compiler.prepare(Constraint("regex", "e"), 1)  # every turn was given back
        return engine.begun

    assert asyncio.run(scenario()) == ["a", "b", "d", "e"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/generate", {"prompt": "a", "max_new_tokens": 1}),
        ("/instruct", {"instruction": "a", "max_new_tokens": 1}),
        ("/v1/completions", {"model": "base", "prompt": "a", "max_tokens": 1}),
    ],
)
def test_it_takes_of_the_time_that_the_request_has(
    live: Live, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, Any]
) -> None:
    compiled: list[float] = []
    deadlines: list[float | None] = []
    prepare, opened = Engine.prepare, EngineClient.submit

    def note_time(self: Engine, constraint: Constraint, count: int = 1) -> None:
        prepare(self, constraint, count)
        compiled.append(time.monotonic())

    def note_deadline(
        self: EngineClient, requests: Sequence[Request], **more: Any
    ) -> SequenceEvents:
        deadlines.append(requests[0].deadline)
        return opened(self, requests, **more)

    monkeypatch.setattr(Engine, "prepare", note_time)
    monkeypatch.setattr(EngineClient, "submit", note_deadline)
    sent = {**fields, "response_format": {"type": "regex", "regex": "a+"}}
    response = live.client.post(path, json=sent)
    assert response.status_code == 200, response.text
    [done], [deadline] = compiled, deadlines
    assert deadline is not None
    assert deadline < done + live.service.settings.request_timeout
