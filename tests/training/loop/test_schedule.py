"""Learning-rate schedules."""

import itertools

import pytest

from model.errors import UsageError
from training.loop.schedule import SCHEDULES, Schedule


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    schedule = Schedule(100, warmup=4)
    assert [schedule.factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_falls_to_the_final_share() -> None:
    schedule = Schedule(101, final=0.1)
    assert schedule.factor(0) == 1.0
    assert schedule.factor(50) == pytest.approx(0.55)
    assert schedule.factor(100) == pytest.approx(0.1)


def test_wsd_is_steady_then_falls() -> None:
    schedule = Schedule(100, warmup=5, kind="wsd", final=0.0)
    assert schedule.steady_until() == 80
    assert {schedule.factor(step) for step in range(5, 81)} == {1.0}
    assert schedule.factor(99) == pytest.approx(0.0)


def test_wsd_falls_only_after_a_long_warm_up() -> None:
    schedule = Schedule(100, warmup=90, kind="wsd", final=0.0)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[:91] == sorted(factors[:91])
    assert factors[90] == 1.0
    assert max(abs(a - b) for a, b in itertools.pairwise(factors)) < 0.12
    assert schedule.steady_until() == 90


@pytest.mark.parametrize("kind", SCHEDULES)
def test_factors_are_above_zero_and_at_most_one(kind: str) -> None:
    for steps, warmup in ((1, 0), (2, 1), (10, 9), (50, 10)):
        schedule = Schedule(steps, warmup, kind)
        assert all(0 < schedule.factor(step) <= 1 for step in range(steps))


@pytest.mark.parametrize("warmup", [10, 11, -1])
def test_warm_up_must_be_shorter_than_the_run(warmup: int) -> None:
    with pytest.raises(UsageError, match="--warmup"):
        Schedule(10, warmup=warmup)


def test_unknown_schedule() -> None:
    with pytest.raises(UsageError, match="--schedule is 'linear'"):
        Schedule(10, kind="linear")
