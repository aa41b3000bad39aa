"""The checkpoints and the service of `tests/app`, for what stands around several of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.conftest import checkpoints, serve

from .load import LONG, SEEDS, SLOTS, TOKENS, body, text_of

__all__ = ["checkpoints"]


@pytest.fixture(scope="session", autouse=True)
def ray_variables() -> Iterator[None]:
    """Ray reads them when it is imported."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")  # no token in the home directory
    patch.setenv("RAY_raylet_start_wait_time_s", "120")  # of a machine that is busy
    yield
    patch.undo()


def texts(checkpoints: Path, tokens: int) -> dict[int, str]:
    """Those of a single service, by seed."""
    with serve(models=checkpoints, slots=SLOTS) as live:
        found = {}
        for seed in range(SEEDS):
            answer = live.client.post("/generate", json=body(seed, tokens))
            assert answer.status_code == 200
            found[seed] = text_of(answer.content)
    assert len(set(found.values())) == SEEDS
    return found


@pytest.fixture(scope="session")
def expected(checkpoints: Path) -> dict[int, str]:
    return texts(checkpoints, TOKENS)


@pytest.fixture(scope="session")
def expected_long(checkpoints: Path) -> dict[int, str]:
    return texts(checkpoints, LONG)
