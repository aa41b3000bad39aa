"""Clients share the engine: who asks for little is answered beside those who ask for much."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.keys.key_file import KeyEntry, digest, dump_entries

from .conftest import Live, serve
from .test_leaving import send
from .with_keys import bearer

BATCH: dict[str, Any] = {"prompt": ["a"] * 12, "max_new_tokens": 3000, "ignore_eos": True}
SHORT: dict[str, dict[str, Any]] = {
    "/classify": {"text": "a"},
    "/generate": {"prompt": "b", "max_new_tokens": 8},
    "/instruct": {"instruction": "b", "max_new_tokens": 8},
}


@pytest.fixture
def small(checkpoints: Path) -> Iterator[Live]:
    with serve(models=checkpoints, slots=2, max_waiting=40, max_batch=12, step_tokens=16) as live:
        yield live


@pytest.mark.parametrize("path", SHORT)
def test_a_short_request_is_answered_beside_a_batch_that_has_all_slots(
    small: Live, path: str
) -> None:
    batches = [send(small, "/generate", BATCH) for _ in range(2)]
    small.wait(lambda: small.running() == 2 and small.waiting() == 22)
    assert small.client.post(path, json=SHORT[path]).status_code == 200
    # Nothing of the batches had to end for it.
    assert small.running() + small.waiting() == 24
    metrics = small.client.get("/metrics").text
    assert "penwright_requests_paused" in metrics
    for connection in batches:
        connection.close()
    small.wait_until_idle()


def test_a_full_queue_takes_one_of_another_client(checkpoints: Path) -> None:
    with serve(models=checkpoints, slots=2, max_waiting=12, max_batch=12) as small:
        batches = [send(small, "/generate", BATCH)]
        batches.append(send(small, "/generate", {**BATCH, "prompt": ["a", "b"]}))
        small.wait(lambda: small.running() + small.waiting() == 14)
        assert small.client.post("/classify", json={"text": "a"}).status_code == 200
        many = {"text": ["a"] * 7}
        assert small.client.post("/classify", json=many).status_code == 429
        for connection in batches:
            connection.close()
        small.wait_until_idle()


USER, URGENT = "pw-user-0123456789", "pw-urgent-0123456789"


@pytest.fixture(scope="module")
def keyed(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    user = KeyEntry(label="user", sha256=digest(USER))
    urgent = KeyEntry(label="urgent", sha256=digest(URGENT), max_priority=5)
    file.write_bytes(dump_entries([user, urgent]))
    with serve(models=checkpoints, api_keys=file, slots=2, max_waiting=60, max_batch=12) as live:
        yield live


@pytest.mark.parametrize("path", SHORT)
@pytest.mark.parametrize(
    ("key", "priority", "status"),
    [(USER, 0, 200), (USER, 1, 403), (URGENT, 5, 200), (URGENT, 6, 403)],
)
def test_a_priority_is_what_the_key_allows(
    keyed: Live, path: str, key: str, priority: int, status: int
) -> None:
    body = {**SHORT[path], "priority": priority}
    answer = keyed.client.post(path, json=body, headers=bearer(key))
    assert answer.status_code == status
    if status == 403:
        most = 5 if key == URGENT else 0
        problem = answer.json()
        assert problem["type"].endswith(":priority-not-allowed")
        assert problem["max_priority"] == most
        assert f"priority is {priority}; this API key has at most {most}" in problem["detail"]


@pytest.mark.parametrize("path", SHORT)
def test_without_keys_nothing_is_urgent(live: Live, path: str) -> None:
    answer = live.client.post(path, json={**SHORT[path], "priority": 1})
    assert answer.status_code == 403
    assert "requests without an API key have at most 0" in answer.json()["detail"]
    assert live.client.post(path, json={**SHORT[path], "priority": 0}).status_code == 200


@pytest.mark.parametrize("path", SHORT)
@pytest.mark.parametrize("priority", [-1, 10, "1", 1.5])
def test_a_priority_is_a_number_from_0_to_9(live: Live, path: str, priority: Any) -> None:
    answer = live.client.post(path, json={**SHORT[path], "priority": priority})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "priority"


def test_what_is_urgent_goes_before_all_others(keyed: Live) -> None:
    [engine_client] = keyed.service.engine_clients()
    batches = [send(keyed, "/generate", BATCH, headers=bearer(USER))]
    keyed.wait(lambda: keyed.running() == 2)
    urgent = {**BATCH, "prompt": ["a", "b"], "priority": 3}
    batches.append(send(keyed, "/generate", urgent, headers=bearer(URGENT)))

    def active() -> set[int]:
        return {each.priority for each in list(engine_client.engine._scheduler.active)}

    keyed.wait(lambda: active() == {3})
    for connection in batches:
        connection.close()
    keyed.wait_until_idle()


def test_the_connections_of_a_key_are_one_client(keyed: Live) -> None:
    [engine_client] = keyed.service.engine_clients()
    batches = [send(keyed, "/generate", BATCH, headers=bearer(USER)) for _ in range(2)]
    keyed.wait(lambda: keyed.running() + keyed.waiting() == 24)
    assert engine_client.engine._intake._clients == {"key user": 24}
    for connection in batches:
        connection.close()
    keyed.wait_until_idle()
    assert not engine_client.engine._intake._clients
