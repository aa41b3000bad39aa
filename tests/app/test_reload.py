"""A model set takes another's place, and no request is dropped."""

import concurrent.futures
import contextlib
import json
import shutil
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine import model_sets
from app.engine.loading import load
from app.keys.key_file import KeyEntry, digest, dump_entries
from model.architecture import Architecture
from model.checkpoint import load_base, save_base

from .conftest import CONTEXT, Live, _network, events, process, serve, until_ready

ADMIN = "pw-admin-0123456789"
OTHER = "pw-other-0123456789"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}
LONG = {"prompt": "a", "max_new_tokens": 2000, "ignore_eos": True, "seed": 1}
SHORT = {**LONG, "max_new_tokens": 5}


def write_keys(file: Path, *keys: str) -> None:
    entries = [
        KeyEntry(label=f"k{i}", sha256=digest(key), admin=i == 0) for i, key in enumerate(keys)
    ]
    file.write_bytes(dump_entries(entries))


class Place:
    """A directory of a model set whose content changes, and a file of keys."""

    def __init__(self, root: Path, checkpoints: Path) -> None:
        self.models = root / "models"
        self.keys = root / "keys.json"
        self._root = root
        shutil.copytree(checkpoints, self.models)
        write_keys(self.keys, ADMIN)

    def put(self, seed: int) -> None:
        """A set with another base, and nothing but it."""
        new = self._root / "new"
        tokenizer = load_base(self.models / "base").tokenizer
        config = Architecture(300, CONTEXT, n_layer=2, n_head=2, n_embd=16)
        save_base(new / "base", _network(config, seed), tokenizer, card={})
        (new / "models.json").write_text('{"format_version": 1, "generate": "base"}')
        self.models.rename(self._root / f"before-{seed}")
        new.rename(self.models)

    def spoil(self) -> None:
        """Break the weights of the base, as a copy does that was broken off."""
        weights = self.models / "base" / "model.safetensors"
        content = weights.read_bytes()
        weights.unlink()  # the service may have it mapped
        weights.write_bytes(content[:-10])


@pytest.fixture
def place(tmp_path: Path, checkpoints: Path) -> Place:
    return Place(tmp_path, checkpoints)


@contextlib.contextmanager
def served(place: Place, **settings: Any) -> Iterator[Live]:
    with serve(models=place.models, api_keys=place.keys, **settings) as live:
        live.client.headers.update(HEADERS)
        yield live


def engines() -> int:
    return sum(thread.name == "engine" for thread in threading.enumerate())


def figure(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def text(response: httpx.Response) -> str:
    parts = [data for _, data in events(response)]
    assert parts[-1] == "[DONE]"
    return "".join(part["text"] for part in parts[:-1])


def test_a_stream_ends_on_the_model_that_it_began_with(place: Place) -> None:
    before = engines()
    with served(place) as live:
        [old] = live.service.engine_clients()
        network = weakref.ref(old.engine.base.model)
        del old
        whole = live.client.post("/generate", json=LONG)
        first = whole.headers["x-model-sha256"]
        with live.client.stream("POST", "/generate", json={**LONG, "stream": True}) as stream:
            assert stream.headers["x-model-sha256"] == first
            place.put(11)
            answer = httpx.post(f"{live.url}/admin/reload", headers=HEADERS, timeout=60)
            assert answer.status_code == 200, answer.text
            second = answer.json()["models"]["base"]
            assert list(answer.json()["models"]) == ["base"]
            assert second != first
            changed = httpx.post(f"{live.url}/generate", json=SHORT, headers=HEADERS, timeout=60)
            assert changed.headers["x-model-sha256"] == second
            assert engines() - before == 2  # the stream still runs
            assert text(stream) == whole.json()["choices"][0]["text"]
        assert not whole.json()["choices"][0]["text"].startswith(
            changed.json()["choices"][0]["text"]
        )
        assert live.client.post("/classify", json={"text": "a"}).status_code == 404
        live.wait(lambda: engines() - before == 1)
        live.wait(lambda: network() is None)
        metrics = live.client.get("/metrics").text
        assert 'penwright_reloads_total{result="ok"} 1.0' in metrics
        assert first not in metrics
        assert second in metrics
    assert engines() == before


def test_a_bad_set_is_refused_and_the_old_one_serves_on(place: Place) -> None:
    before = engines()
    with served(place) as live:
        first = live.client.post("/generate", json=SHORT)
        place.spoil()
        answer = live.client.post("/admin/reload")
        assert answer.status_code == 409
        assert answer.json()["type"].endswith(":reload-refused")
        assert "model.safetensors" in answer.json()["detail"]
        place.keys.write_text("[{}]")
        answer = live.client.post("/admin/reload")
        assert answer.status_code == 409
        assert "key 0, label" in answer.json()["detail"]
        assert live.client.get("/readyz").status_code == 200
        again = live.client.post("/generate", json=SHORT)
        assert again.headers["x-model-sha256"] == first.headers["x-model-sha256"]
        assert again.json()["choices"] == first.json()["choices"]
        assert 'penwright_reloads_total{result="refused"} 2.0' in live.client.get("/metrics").text
        assert engines() - before == 1


def test_a_removed_key_is_no_longer_valid_though_the_models_are_refused(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    write_keys(place.keys, ADMIN, OTHER)
    other = {"Authorization": f"Bearer {OTHER}"}
    with served(place) as live:
        (place.models / "base" / "model.safetensors").unlink()
        assert live.client.get("/models", headers=other).status_code == 200
        write_keys(place.keys, ADMIN)
        caplog.set_level("INFO")
        answer = live.client.post("/admin/reload")
        assert answer.status_code == 409
        assert "model.safetensors" in answer.json()["detail"]
        assert "The API keys were read again: 1 are known" in answer.json()["detail"]
        assert answer.json()["keys"] == 1
        assert live.client.get("/models", headers=other).status_code == 401
        assert live.client.post("/generate", json=SHORT).status_code == 200
        assert [line.keys for line in caplog.records if "read again" in line.message] == [1]  # type: ignore[attr-defined]
        # Nor do keys go when it is their file that is wrong.
        place.keys.write_text("[")
        answer = live.client.post("/admin/reload")
        assert "The API keys before are still valid" in answer.json()["detail"]
        assert live.client.post("/generate", json=SHORT).status_code == 200


def test_a_removed_key_is_no_longer_valid_while_models_are_loaded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        begun.set()
        go.wait(60)
        return load(*args)

    keys = (ADMIN, OTHER, "pw-third-0123456789")
    write_keys(place.keys, *keys)
    with served(place) as live, concurrent.futures.ThreadPoolExecutor() as pool:

        def valid() -> list[bool]:
            headers = [{"Authorization": f"Bearer {key}"} for key in keys]
            found = [httpx.get(f"{live.url}/models", headers=each) for each in headers]
            return [answer.status_code == 200 for answer in found]

        try:
            monkeypatch.setattr(model_sets, "load", slow)
            asked = pool.submit(httpx.post, f"{live.url}/admin/reload", headers=HEADERS, timeout=60)
            assert begun.wait(10)
            assert valid() == [True, True, True]
            write_keys(place.keys, *keys[:2])
            answer = live.client.post("/admin/reload")
            assert answer.json()["type"].endswith(":reload-in-progress")
            assert "The API keys were read again: 2 are known" in answer.json()["detail"]
            assert valid() == [True, True, False]
            write_keys(place.keys, ADMIN)
            live.server.reload_signal._take(signal.SIGHUP, None)
            live.wait(lambda: valid() == [True, False, False])
        finally:
            go.set()
        assert asked.result().status_code == 200
        live.wait(lambda: not live.service.loading)


def test_an_engine_that_does_not_turn_is_not_put_in_place(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engines()
    with served(place) as live:

        async def never(self: Any, limit: float) -> bool:
            return False

        with monkeypatch.context() as patch:
            patch.setattr(model_sets.EngineClient, "turns", never)
            answer = live.client.post("/admin/reload")
        assert answer.status_code == 409
        assert "does not turn" in answer.json()["detail"]
        assert engines() - before == 1
        assert live.client.post("/generate", json=SHORT).status_code == 200


def test_requests_during_many_reloads_all_succeed(place: Place) -> None:
    with (
        served(place) as live,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        done = threading.Event()
        ready: list[int] = []
        tokens = [0.0]

        def watch() -> None:
            with httpx.Client(base_url=live.url, headers=HEADERS, timeout=60) as client:
                while not done.is_set():
                    ready.append(client.get("/readyz").status_code)
                    metrics = client.get("/metrics").text
                    tokens.append(figure(metrics, "penwright_generated_tokens_total"))

        def ask(number: int) -> str:
            body = {**SHORT, "seed": number, "max_new_tokens": 60, "stream": number % 2 == 0}
            answer = httpx.post(f"{live.url}/generate", json=body, headers=HEADERS, timeout=60)
            assert answer.status_code == 200, answer.text
            if body["stream"]:
                assert text(answer)
            return str(answer.headers["x-model-sha256"])

        watcher = pool.submit(watch)
        asked = [pool.submit(ask, number) for number in range(50)]
        for seed in (11, 12, 13):
            place.put(seed)
            answer = live.client.post("/admin/reload", timeout=60)
            assert answer.status_code == 200, answer.text
        asked += [pool.submit(ask, 51)]
        models = {future.result() for future in asked}
        assert answer.json()["models"]["base"] in models
        assert len(models) >= 2
        done.set()
        watcher.result()
        assert set(ready) == {200}
        assert tokens == sorted(tokens)
        live.wait(lambda: len(live.service.engine_clients()) == 1)


def test_one_reload_at_a_time_and_it_goes_on_when_its_caller_leaves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        begun.set()
        go.wait(20)
        return load(*args)

    with served(place) as live:
        monkeypatch.setattr(model_sets, "load", slow)
        place.put(11)
        with pytest.raises(httpx.ReadTimeout):
            live.client.post("/admin/reload", timeout=0.3)
        assert begun.wait(10)
        answer = live.client.post("/admin/reload")
        assert answer.status_code == 409
        assert answer.json()["type"].endswith(":reload-in-progress")
        assert live.client.get("/readyz").status_code == 200
        first = live.client.post("/generate", json=SHORT).headers["x-model-sha256"]
        go.set()
        live.wait(
            lambda: live.client.post("/generate", json=SHORT).headers["x-model-sha256"] != first
        )


def test_nothing_is_reloaded_while_it_drains(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = engines()
    go, begun = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        begun.set()
        go.wait(20)
        return load(*args)

    with served(place) as live, concurrent.futures.ThreadPoolExecutor() as pool:
        monkeypatch.setattr(model_sets, "load", slow)
        asked = pool.submit(httpx.post, f"{live.url}/admin/reload", headers=HEADERS, timeout=60)
        assert begun.wait(10)
        live.service.drain()
        go.set()
        for answer in (asked.result(), live.client.post("/admin/reload")):
            assert answer.status_code == 503
            assert answer.json()["type"].endswith(":draining")
        assert engines() - before == 1


def test_only_an_admin_reloads(place: Place, live: Live) -> None:
    answer = live.client.post("/admin/reload")
    assert answer.status_code == 403
    assert "SIGHUP" in answer.json()["detail"]
    write_keys(place.keys, ADMIN, OTHER)
    with served(place) as guarded:
        headers = {"Authorization": f"Bearer {OTHER}"}
        answer = guarded.client.post("/admin/reload", headers=headers)
        assert answer.status_code == 403
        assert "not for /admin" in answer.json()["detail"]
        write_keys(place.keys, OTHER)
        assert guarded.client.post("/admin/reload").json()["keys"] == 1
        # The keys are others from now on, and who is an admin, too.
        assert guarded.client.post("/admin/reload").status_code == 401
        assert guarded.client.post("/admin/reload", headers=headers).status_code == 200


def test_sighup_reloads_the_program_and_its_keys(place: Place) -> None:
    flags = ("--models", str(place.models), "--api-keys", str(place.keys))
    with process(*flags) as (started, url):
        until_ready(started, url)
        other = {"Authorization": f"Bearer {OTHER}"}
        assert httpx.get(f"{url}/models", headers=other).status_code == 401
        first = httpx.post(f"{url}/generate", json=SHORT, headers=HEADERS)
        body = {**LONG, "stream": True}
        with httpx.stream("POST", f"{url}/generate", json=body, headers=HEADERS) as stream:
            assert stream.status_code == 200
            place.put(11)
            write_keys(place.keys, OTHER)
            started.send_signal(signal.SIGHUP)
            started.send_signal(signal.SIGHUP)  # the second waits for the first
            while httpx.get(f"{url}/models", headers=other).status_code == 401:
                assert httpx.get(f"{url}/readyz").status_code == 200
            assert text(stream)
        answer = httpx.post(f"{url}/generate", json=SHORT, headers=other)
        assert answer.headers["x-model-sha256"] != first.headers["x-model-sha256"]
        place.spoil()
        write_keys(place.keys, ADMIN)
        started.send_signal(signal.SIGHUP)
        while httpx.get(f"{url}/models", headers=other).status_code == 200:
            assert started.poll() is None
        other = HEADERS
        while (
            'reloads_total{result="refused"} 0' in httpx.get(f"{url}/metrics", headers=other).text
        ):
            assert started.poll() is None
        answer = httpx.post(f"{url}/generate", json=SHORT, headers=other)
        assert answer.status_code == 200
        started.terminate()
        assert started.stderr is not None
        lines = [json.loads(line) for line in started.stderr.read().splitlines()]
        assert started.wait(20) == 0
    assert any("reload refused" in line["message"] for line in lines)
    assert any(line["message"] == "reloaded" for line in lines)
