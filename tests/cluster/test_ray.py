"""Replicas on a real Ray cluster of two nodes, each with its own raylet and proxy on this machine.

One test leads to the next, because a cluster takes a minute to start.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from app.settings import Settings
from tests.app.conftest import free_port

from .load import LONG, SEEDS, SLOTS, TOKENS, Load, body, text_of

# Ray is imported only where it is used: that takes seconds, and `make test` reads this file, too.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    # Of Ray's own code.
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 12
PATIENCE = 120.0
"""Seconds in which the cluster must have done what a test waits for."""


@dataclass(frozen=True)
class Replica:
    name: str
    actor: Any
    pid: int
    node: str

    def ongoing(self) -> int:
        import ray

        count: int = ray.get(self.actor.get_num_ongoing_requests.remote(), timeout=30)
        return count


@dataclass
class TwoNodes:
    cluster: Any
    worker: Any
    head_url: str
    worker_url: str

    def replicas(self) -> list[Replica]:
        """Those that live and have been started."""
        import ray

        found = []
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if not actor["name"].startswith("SERVE_REPLICA::"):
                continue
            try:
                handle = ray.get_actor(actor["name"], namespace=actor["namespace"])
                pid, _, _, node, *_ = ray.get(handle.is_allocated.remote(), timeout=10)
            except (ValueError, ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                continue  # gone in between
            found.append(Replica(actor["name"], handle, pid, node))
        return found

    def running(self) -> int:
        """Replicas that the controller counts as running."""
        from ray import serve

        status = serve.status().applications["penwright"].deployments["Penwright"]
        return int(status.replica_states.get("RUNNING", 0))

    def until(self, count: int) -> None:
        """Wait for this number of running replicas, and no others."""
        deadline = time.monotonic() + PATIENCE
        while (found := (self.running(), len(self.replicas()))) != (count, count):
            assert time.monotonic() < deadline, f"(running, living) replicas: {found}"
            time.sleep(0.25)


@pytest.fixture(scope="module")
def nodes(checkpoints: Path) -> Iterator[TwoNodes]:
    ray = pytest.importorskip("ray", reason="needs the extra `cluster`")
    from ray import serve
    from ray.cluster_utils import Cluster

    head_port, worker_port = free_port(), free_port()
    variables = {
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(worker_port),
        "OMP_NUM_THREADS": "1",
        "PENWRIGHT_MODELS": str(checkpoints),
        "PENWRIGHT_SLOTS": str(SLOTS),
        "PENWRIGHT_LOG_LEVEL": "warning",
        "PENWRIGHT_ALLOW_ANONYMOUS": "1",
        "PYTHONPATH": str(ROOT),
    }
    patch = pytest.MonkeyPatch()
    for name, value in variables.items():
        patch.setenv(name, value)
    before = {process.pid for process in psutil.process_iter()}
    small = {"object_store_memory": 100 * 1024 * 1024, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    try:
        worker = cluster.add_node(num_cpus=1, object_store_memory=100 * 1024 * 1024)
        ray.init(address=cluster.address, log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": head_port})
        from app.ray import Replicas, app

        from .mortal import Mortal

        patch.setattr("app.ray.Penwright", Mortal)
        replicas = Replicas(cpus=1, max_replicas=2, upscale_delay=0, downscale_delay=5)
        serve.run(app(replicas), name="penwright")
        urls = f"http://127.0.0.1:{head_port}", f"http://127.0.0.1:{worker_port}"
        yield TwoNodes(cluster, worker, *urls)
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
        patch.undo()
        _, left = psutil.wait_procs(_ray_processes(before), timeout=20)
        for process in left:
            process.kill()
        assert not left, [process.cmdline() for process in left]


def _ray_processes(before: set[int]) -> list[psutil.Process]:
    """Those that this test has started: of this user's Ray, and not there before."""
    found = []
    for process in psutil.process_iter():
        if process.pid in before or process.pid == os.getpid():
            continue
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if command.startswith("ray::") or "/ray/core/src/ray/" in command:
            found.append(process)
    return found


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_the_configuration_is_one_that_ray_takes() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="needs the extra `cluster`")
    from app.ray import Replicas, options

    tree = yaml.safe_load((ROOT / "deploy" / "ray.yaml").read_text())
    [application] = schema.ServeDeploySchema.model_validate(tree).applications
    told: dict[str, Any] = options(Settings(slots=8), Replicas(**application.args))
    # A full batch and something to fill it up; more replicas before that.
    assert told["max_ongoing_requests"] == 10
    assert told["autoscaling_config"].target_ongoing_requests == 6
    assert told["ray_actor_options"]["num_cpus"] == application.args["cpus"]
    assert told["graceful_shutdown_timeout_s"] > Settings().request_timeout
    with pytest.raises(ValueError, match=r"max_replicas is 1; it must be at least min_replicas"):
        Replicas(min_replicas=2, max_replicas=1)
    with pytest.raises(ValueError, match="replicas\n"):
        Replicas(replicas=2)


def test_secrets_are_not_told_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve.schema", reason="needs the extra `cluster`")
    from app.ray import Replicas, options

    monkeypatch.setenv("PENWRIGHT_API_KEY", "k" * 40)
    monkeypatch.setenv("PENWRIGHT_SLOTS", "8")
    told: dict[str, Any] = options(Settings(), Replicas())
    variables = told["ray_actor_options"]["runtime_env"]["env_vars"]
    assert variables["PENWRIGHT_SLOTS"] == "8"
    assert "k" * 40 not in str(told)


def test_the_answers_are_those_of_one_process(nodes: TwoNodes, expected: dict[int, str]) -> None:
    with httpx.Client(base_url=nodes.head_url, timeout=60) as client:
        assert client.get("/readyz").json()["status"] == "ready"
        for seed in range(SEEDS):
            with client.stream("POST", "/generate", json=body(seed)) as answer:
                pieces = list(answer.iter_raw())
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert len(pieces) > TOKENS / 20  # it came as it was made, not in one
            assert text_of(b"".join(pieces)) == expected[seed]
        refused = client.post("/generate", json={"prompt": 1}, headers={"X-Request-ID": "mine"})
        assert refused.status_code == 422
        assert refused.headers.get_list("x-request-id") == ["mine"]
        assert refused.json()["request_id"] == "mine"


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_slot(nodes: TwoNodes, streams: bool) -> None:
    nodes.until(1)

    def running() -> float:
        lines = httpx.get(f"{nodes.head_url}/metrics").text.splitlines()
        found = [line for line in lines if line.startswith("penwright_requests_running")]
        assert found
        return sum(float(line.split()[-1]) for line in found)

    assert running() == 0
    # Far longer than the test looks at it.
    long = {**body(0, 4000), "stream": streams}
    with httpx.Client(base_url=nodes.head_url, timeout=60) as client:
        if streams:
            with client.stream("POST", "/generate", json=long) as answer:
                assert answer.status_code == 200
                pieces = answer.iter_raw()  # kept: httpx closes the answer with its iterator
                next(pieces)
                assert running() == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/generate", json=long, timeout=0.3)
    left = time.monotonic()
    while running():
        assert time.monotonic() - left < 0.5
        time.sleep(0.01)


def test_a_dead_node_costs_no_more_than_what_it_was_answering(
    nodes: TwoNodes, expected: dict[int, str], record_property: Any
) -> None:
    with Load(nodes.head_url, expected, CLIENTS) as load:
        # More clients than one replica's batch: there will be another one, on the other node.
        nodes.until(2)
        on = {replica.node: replica for replica in nodes.replicas()}
        assert set(on) == {nodes.cluster.head_node.node_id, nodes.worker.node_id}
        for url in (nodes.head_url, nodes.worker_url):
            # It may have to wait like any other request.
            assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200
        doomed = on[nodes.worker.node_id]
        before = len(load.answers)
        time.sleep(2)
        assert len(load.answers) > before

        in_flight = doomed.ongoing()
        killing = time.monotonic()
        nodes.cluster.remove_node(nodes.worker, allow_graceful=False)
        while _runs(doomed.pid):
            time.sleep(0.002)
        killed = time.monotonic()
        nodes.until(2)
        restored = time.monotonic()
        time.sleep(2)

    figures = {
        "answers": len(load.answers),
        "failures": len(load.failures()),
        "in_flight_on_it": in_flight,
        "begun_while_killing": sum(killing <= a.started <= killed for a in load.answers),
        "seconds_to_die": round(killed - killing, 3),
        "seconds_to_restore": round(restored - killing, 1),
        "after": sum(a.started > killed for a in load.answers),
        "problems": sorted({f"{a.status} {a.problem}" for a in load.failures()}),
    }
    record_property("figures", figures)
    assert in_flight > 0
    assert len(load.failures()) <= in_flight + figures["begun_while_killing"], figures
    assert all(a.started <= killed for a in load.failures()), figures
    assert all(a.ended >= killing for a in load.failures()), figures
    assert figures["after"] > CLIENTS


def test_a_replica_that_is_scaled_down_finishes_its_requests(
    nodes: TwoNodes,
    expected: dict[int, str],
    expected_long: dict[int, str],
    record_property: Any,
) -> None:
    with Load(nodes.head_url, expected, CLIENTS):
        nodes.until(2)
    # As many as one replica is meant to have, and spread over two: each of them has something to
    # do at any time, also when it is told to go.
    with Load(nodes.head_url, expected_long, SLOTS * 3 // 4, tokens=LONG) as load:
        nodes.until(1)
    record_property("answers_while_scaling_down", len(load.answers))
    assert load.failures() == []
    assert len(load.answers) > 10


def test_a_dead_engine_ends_its_replica_and_another_takes_its_place(
    nodes: TwoNodes, record_property: Any
) -> None:
    nodes.until(1)
    [before] = nodes.replicas()
    with httpx.Client(base_url=nodes.head_url, timeout=60) as client:
        with client.stream("POST", "/generate", json=body(0, 4000)) as running:
            pieces = running.iter_raw()
            next(pieces)
            assert client.get("/die").status_code == 200
            died = time.monotonic()
            rest = b"".join(pieces).decode()
        # What ran then is told so.
        assert "event: error" in rest
        assert rest.rstrip().endswith("}")
        deadline = died + PATIENCE
        while (answer := client.post("/generate", json={"prompt": "a"})).status_code != 200:
            assert answer.status_code in (500, 503)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        record_property("seconds_to_replace", round(time.monotonic() - died, 1))
    [after] = nodes.replicas()
    assert after.pid != before.pid
    assert not _runs(before.pid)
