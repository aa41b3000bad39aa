"""A real Prometheus watches a real service under load: every question that is asked of it must
have an answer. Needs `prometheus` and `promtool`, as Debian's package `prometheus` has them.
"""

import concurrent.futures
import contextlib
import json
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.app.conftest import ROOT, Live, free_port, serve
from tests.e2e.server import SCRATCH

MONITORING = ROOT / "monitoring"
KEY = "a-key-for-prometheus-and-load"
LOAD_SECONDS = 45.0

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("promtool") is None,
        reason="needs prometheus and promtool: apt-get install prometheus",
    ),
]


def panels() -> Iterator[tuple[str, str]]:
    """Title and PromQL of everything on the dashboard."""
    dashboard = json.loads((MONITORING / "grafana/dashboards/penwright.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == datasource()


def datasource() -> str:
    file = MONITORING / "grafana/provisioning/datasources/prometheus.yml"
    [source] = yaml.safe_load(file.read_text())["datasources"]
    uid: str = source["uid"]
    return uid


def alerts() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def configuration(out: Path, target: str) -> Path:
    """Ours, other than where the service is found and how often it is asked."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [job] = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [target]}]
    (out / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yml", out)
    (out / "api-key").write_text(f"{KEY}\n")
    return out / "prometheus.yml"


def load(live: Live, stop: threading.Event) -> None:
    """All that the service answers, and all that it refuses."""
    with httpx.Client(base_url=live.url, timeout=30, headers=AUTHORIZED) as client:
        turn = 0
        while not stop.is_set():
            turn += 1
            prompt = "The old man and the sea. " * 8
            body = {"prompt": prompt, "max_new_tokens": 20, "stream": turn % 2 == 0}
            client.post("/generate", json=body)
            client.post("/classify", json={"text": ["abc", f"message {turn}"]})
            client.post("/instruct", json={"instruction": "Rest.", "max_new_tokens": 5})
            client.post("/generate", json={"prompt": 5})


AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Live]]:
    """Prometheus after it has watched the models from scratch under load, and their service."""
    out = tmp_path_factory.mktemp("prometheus")
    with serve(models=SCRATCH, slots=4, api_key=KEY) as live:
        target = live.url.removeprefix("http://")
        port = free_port()
        command = ["prometheus", f"--config.file={configuration(out, target)}"]
        command += [f"--storage.tsdb.path={out / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        with (out / "log").open("w") as log:
            prometheus = subprocess.Popen(command, stderr=log)
        stop = threading.Event()
        workers = [threading.Thread(target=load, args=(live, stop)) for _ in range(6)]
        try:
            for worker in workers:
                worker.start()
            time.sleep(LOAD_SECONDS)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
                yield client, live
        finally:
            stop.set()
            for worker in workers:
                worker.join()
            prometheus.terminate()
            prometheus.wait(30)


def ask(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = client.get("/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    for path in MONITORING.glob("*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    checked = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert "rules found" in checked.stdout


def test_the_service_is_scraped_with_its_key(watched: tuple[httpx.Client, Live]) -> None:
    prometheus, live = watched
    [target] = prometheus.get("/targets").json()["data"]["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    assert httpx.get(f"{live.url}/metrics").status_code == 401


def test_the_exposition_is_as_promtool_wants_it(watched: tuple[httpx.Client, Live]) -> None:
    text = httpx.get(f"{watched[1].url}/metrics", headers=AUTHORIZED).text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_panel_shows_data(watched: tuple[httpx.Client, Live]) -> None:
    asked = 0
    for title, expression in panels():
        query = expression.replace("$__rate_interval", "20s").replace("$instance", ".*")
        found = ask(watched[0], query)
        assert found, f"{title}: nothing for {query}"
        values = [float(series["value"][1]) for series in found]
        assert any(map(math.isfinite, values)), f"{title}: only {values} for {query}"
        asked += 1
    assert asked > 40


def test_every_alert_can_be_evaluated(watched: tuple[httpx.Client, Live]) -> None:
    """Each side of each comparison has a value, so that the alert is not silent for ever."""
    prometheus = watched[0]
    groups = prometheus.get("/rules").json()["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    for name, expression in alerts():
        assert rules[name]["health"] == "ok", rules[name]
        for part in expression.split(" and "):
            for comparison in (" == 0", " > "):
                side = part.split(comparison)[0]
                if side != part:
                    assert ask(prometheus, side), f"{name}: nothing for {side}"
    firing = [name for name, rule in rules.items() if rule["state"] != "inactive"]
    assert firing == [], "a healthy service sets off an alarm"


def test_alerts_go_off(watched: tuple[httpx.Client, Live]) -> None:
    """What they are for happens: the queue is long, a model set is refused, nothing is ready."""
    prometheus, live = watched
    body = {"prompt": ["a"] * 60, "max_new_tokens": 500, "ignore_eos": True}
    deadline = time.monotonic() + 60
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.closing(live.client) as client:
        pool.submit(client.post, "/generate", json=body, headers=AUTHORIZED)
        live.service.metrics.reload(ok=False)
        wanted = {"PenwrightQueueLong", "PenwrightReloadRefused"}
        while not wanted <= (found := alarms(prometheus)):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        live.service.drain()
        while "PenwrightNotReady" not in alarms(prometheus):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        live.service.give_up()


def alarms(client: httpx.Client) -> set[str]:
    """Names of alerts that are pending or firing."""
    return {series["metric"]["alertname"] for series in ask(client, "ALERTS")}
