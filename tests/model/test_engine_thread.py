"""The engine in its thread: requests come and go, wait, fail and are cancelled."""

import threading
import time
from collections.abc import Iterator

import pytest

from model.checkpoint import Adapter, Base
from model.engine.engine import Engine
from model.engine.intake import QueueFull, ShuttingDown
from model.engine.request import (
    Event,
    Failed,
    Finished,
    Generate,
    Request,
    Text,
)
from model.engine.sequence import TokenSequence
from model.engine.settings import EngineSettings
from model.errors import UsageError
from model.sampling import SamplingSettings
from tests.model.engines import prompt, random_adapter, random_base

CONTEXT = 64
GREEDY = SamplingSettings(temperature=0)


@pytest.fixture(scope="module")
def base() -> Base:
    return random_base(CONTEXT)


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    return {
        name: random_adapter(base, seed, classifies=True)
        for seed, name in enumerate(("spam", "other"))
    }


class Collected:
    """Takes what a running engine delivers."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        self._changed = threading.Condition()

    def __call__(self, events: list[tuple[str, Event]]) -> None:
        with self._changed:
            for request_id, event in events:
                self.events.setdefault(request_id, []).append(event)
            self._changed.notify_all()

    def wait_for_end(self, request_id: str) -> Event:
        def ended() -> bool:
            events = self.events.get(request_id)
            return bool(events) and not isinstance(events[-1], Text)

        with self._changed:
            assert self._changed.wait_for(ended, timeout=20), f"{request_id} did not end"
            return self.events[request_id][-1]

    def wait_for_any(self, request_id: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: request_id in self.events, timeout=20)


@pytest.fixture
def running(base: Base, adapters: dict[str, Adapter]) -> Iterator[tuple[Engine, Collected]]:
    collected = Collected()
    own = Engine(base, adapters, EngineSettings(slots=2, max_waiting=3, step_tokens=8), collected)
    own.start()
    yield own, collected
    own.stop(5)
    assert not own.alive


LONG = Generate(50, GREEDY, ignore_eos=True)


def slow_down(own: Engine, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> None:
    """Make each step take a while, so that a test can act in between."""
    run = own._runner.run

    def slow(chunks):  # type: ignore[no-untyped-def]
        time.sleep(seconds)
        return run(chunks)

    monkeypatch.setattr(own._runner, "run", slow)


def test_requests_join_a_running_batch(running: tuple[Engine, Collected]) -> None:
    own, collected = running
    own.submit(Request("first", (1, 2), LONG))
    collected.wait_for_any("first")
    own.submit(Request("second", (3, 4), Generate(2, GREEDY, ignore_eos=True)))
    assert isinstance(collected.wait_for_end("second"), Finished)
    assert isinstance(collected.wait_for_end("first"), Finished)


def test_cancelling_gives_every_slot_back(
    running: tuple[Engine, Collected], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, collected = running
    slow_down(own, monkeypatch)
    for i in range(4):  # two run, two wait
        own.submit(Request(str(i), prompt(i), LONG))
    collected.wait_for_any("0")
    for i in range(4):
        own.cancel(str(i))
    own.cancel("unknown")
    own.submit(Request("last", (1,), Generate(1, GREEDY, ignore_eos=True)))
    collected.wait_for_end("last")
    stats = own.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.blocks)
    assert all(isinstance(e, Text) for i in range(4) for e in collected.events.get(str(i), []))


def test_the_queue_is_bounded_and_a_probe_passes_it(
    running: tuple[Engine, Collected], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, collected = running
    slow_down(own, monkeypatch)
    own.submit(Request("a", (1,), LONG))
    own.submit(Request("b", (1,), LONG))
    collected.wait_for_any("b")
    for i in range(3):
        own.submit(Request(f"waiting-{i}", (1,), LONG))
    with pytest.raises(QueueFull):
        own.submit(Request("one too many", (1,), LONG))
    own.submit(Request("probe", (1,), Generate(1)), probe=True)
    own.cancel("a")
    assert isinstance(collected.wait_for_end("probe"), Finished)
    assert "waiting-2" not in collected.events


def test_a_deadline_ends_a_request_where_it_is(running: tuple[Engine, Collected]) -> None:
    own, collected = running
    own.submit(Request("late", (1,), LONG, deadline=time.monotonic() - 1))
    end = collected.wait_for_end("late")
    assert isinstance(end, Failed)
    assert end.reason == "deadline"
    assert own.stats().free_blocks == own.stats().blocks


def test_a_failing_step_fails_its_requests_and_no_other(
    running: tuple[Engine, Collected], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, collected = running

    def fail(chunks: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(own._runner, "run", fail)
        own.submit(Request("1", (1,), LONG))
        end = collected.wait_for_end("1")
    assert isinstance(end, Failed)
    assert end.reason == "internal"
    own.submit(Request("2", (1,), Generate(2, GREEDY, ignore_eos=True)))
    assert isinstance(collected.wait_for_end("2"), Finished)


def test_stopping_finishes_what_was_admitted_and_takes_nothing_new(
    running: tuple[Engine, Collected],
) -> None:
    own, collected = running
    for i in range(4):
        own.submit(Request(str(i), (1, 2), Generate(20, GREEDY, ignore_eos=True)))
    own.stop(20)
    for i in range(4):
        assert isinstance(collected.events[str(i)][-1], Finished)
    with pytest.raises(ShuttingDown):
        own.submit(Request("new", (1,), LONG))


def test_stopping_in_haste_fails_what_is_left(
    running: tuple[Engine, Collected], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, collected = running
    slow_down(own, monkeypatch, 0.05)
    own.submit(Request("1", (1, 2), LONG))
    collected.wait_for_any("1")
    own.stop(0)
    end = collected.wait_for_end("1")
    assert isinstance(end, Failed)
    assert end.reason == "shutdown"


def test_admission_counts_before_the_engine_has_looked(base: Base) -> None:
    """The thread has not even started: what is taken is counted all the same."""
    settings = EngineSettings(slots=2, max_waiting=3)
    own = Engine(base, {}, settings, deliver=lambda events: None)
    for i in range(5):
        own.submit(Request(str(i), (1,), LONG))
    with pytest.raises(QueueFull):
        own.submit(Request("one too many", (1,), LONG))
    assert own.stats().waiting == 5


def test_a_full_queue_refuses_those_who_filled_it(base: Base) -> None:
    own = Engine(base, {}, EngineSettings(slots=2, max_waiting=10), deliver=lambda events: None)
    own.submit(*[Request(f"a{i}", (1,), LONG, client="a") for i in range(12)])
    with pytest.raises(QueueFull):
        own.submit(Request("a", (1,), LONG, client="a"))
    own.submit(*[Request(f"b{i}", (1,), LONG, client="b") for i in range(6)])  # half of all
    with pytest.raises(QueueFull):
        own.submit(Request("b", (1,), LONG, client="b"))
    own.submit(*[Request(f"c{i}", (1,), LONG, client="c") for i in range(4)])
    with pytest.raises(QueueFull):
        own.submit(*[Request(f"d{i}", (1,), LONG, client="d") for i in range(4)])
    assert own.stats().waiting == 22


def test_many_who_have_one_each_do_not_overfill_the_queue(base: Base) -> None:
    own = Engine(base, {}, EngineSettings(slots=2, max_waiting=10), deliver=lambda events: None)
    for i in range(12):
        own.submit(Request(str(i), (1,), LONG, client=str(i)))
    with pytest.raises(QueueFull):
        own.submit(Request("12", (1,), LONG, client="12"))


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_priority_that_there_is_not_is_refused(base: Base, priority: int) -> None:
    own = Engine(base, {}, EngineSettings(), deliver=lambda events: None)
    with pytest.raises(UsageError, match=f"priority is {priority}; it must be 0 to 9"):
        own.submit(Request("1", (1,), LONG, priority=priority))


def test_a_second_request_with_the_same_id_is_refused_to_its_caller_alone(
    running: tuple[Engine, Collected], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, collected = running
    slow_down(own, monkeypatch)
    own.submit(Request("1", (1, 2), LONG))
    for _ in range(2):  # not yet seen by the engine's thread, and running
        with pytest.raises(UsageError, match="id is '1', as another's"):
            own.submit(Request("1", (3,), LONG))
        collected.wait_for_any("1")
    own.cancel("1")
    own.submit(Request("2", (1,), Generate(1, GREEDY, ignore_eos=True)))
    assert isinstance(collected.wait_for_end("2"), Finished)
    collected.events.clear()
    own.submit(Request("1", (1, 2), LONG))  # the first one is gone, and its id is free again
    assert isinstance(collected.wait_for_end("1"), Finished)


def test_an_id_is_free_once_the_end_of_its_request_was_delivered(base: Base) -> None:
    """Many threads with few ids: each may use one again as soon as it has its answer."""
    collected, refused = Collected(), []
    own = Engine(base, {}, EngineSettings(slots=4), collected)
    own.start()

    def ask(name: str) -> None:
        try:
            for _ in range(20):
                own.submit(Request(name, (1, 2), Generate(2, GREEDY, ignore_eos=True)))
                collected.wait_for_end(name)
                collected.events.pop(name)
        except UsageError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not refused
    assert own.stats().running == own.stats().waiting == 0
    own.stop(5)


def test_bad_requests_one_after_another_do_not_end_the_engine(
    running: tuple[Engine, Collected], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fails by itself: no step counts as failed, and a lost device is another matter."""
    own, collected = running
    prepare = own._sampler.prepare

    def broken(logits: object, prompt: object, generated: object) -> None:
        raise IndexError

    def spoil(sequence: TokenSequence) -> None:
        prepare(sequence)
        if sequence.request.id.startswith("bad"):
            sequence.processors.append(broken)  # type: ignore[arg-type]

    monkeypatch.setattr(own._sampler, "prepare", spoil)
    for i in range(15):
        own.submit(Request(f"bad {i}", (1,), LONG))
        end = collected.wait_for_end(f"bad {i}")
        assert end == Failed("internal", "drawing a token failed: IndexError")
    own.submit(Request("good", (1,), LONG))
    assert isinstance(collected.wait_for_end("good"), Finished)
