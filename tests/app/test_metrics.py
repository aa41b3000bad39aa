"""What the metrics mean: shown by requests of known size, not by names alone."""

import concurrent.futures
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.engine.service import Service
from app.ops.engine_metrics import ModelInfo
from app.ops.metrics import REJECTIONS
from model.engine.stats import Histogram

from .conftest import ROOT, Live, serve
from .test_leaving import LONG, send


class Scrape:
    """The figures at one moment."""

    def __init__(self, live: Live) -> None:
        self.families = {
            family.name: family
            for family in text_string_to_metric_families(live.client.get("/metrics").text)
        }
        self._values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._values[f"penwright_{name}", tuple(sorted(labels.items()))]


@pytest.fixture
def own(checkpoints: Path) -> Iterator[Live]:
    """A service whose figures start at zero."""
    with serve(models=checkpoints, slots=2, max_waiting=2, max_batch=2) as live:
        yield live


JSON = {"Content-Type": "application/json"}
GENERATE = {"task": "generate", "model": "base"}


def test_three_requests_of_n_tokens(own: Live) -> None:
    client = own.client
    before = Scrape(own)
    text = "The old man and the sea."
    length = len(client.post("/tokenize", json={"text": text}).json()["tokens"])
    for stream in (False, True, False):
        body = {"prompt": text, "max_new_tokens": 9, "ignore_eos": True, "stream": stream}
        answer = client.post("/generate", json=body)
        assert answer.is_success
        answer.read()
    now = Scrape(own)
    assert now("tokens_total", kind="prompt") == 3 * length
    assert now("tokens_total", kind="completion") == 3 * 9
    assert now("generated_tokens_total") - before("generated_tokens_total") == 3 * 9
    assert now("finished_total", reason="length", **GENERATE) == 3
    for name in ("time_to_first_token", "queue", "prefill", "decode", "time_per_output_token"):
        assert now(f"{name}_seconds_count", **GENERATE) == 3
    assert now("request_prompt_tokens_sum", **GENERATE) == 3 * length
    assert now("request_output_tokens_sum", **GENERATE) == 3 * 9
    assert now("request_output_tokens_bucket", le="8.0", **GENERATE) == 0
    assert now("request_output_tokens_bucket", le="16.0", **GENERATE) == 3
    assert now("request_seconds_count", route="/generate") == 3
    # The gaps between nine tokens are eight, and together they are the time of decoding.
    gaps = "inter_token_latency_seconds"
    assert now(f"{gaps}_count") - before(f"{gaps}_count") == 3 * 8
    decode = now("decode_seconds_sum", **GENERATE)
    assert now(f"{gaps}_sum") - before(f"{gaps}_sum") == pytest.approx(decode, rel=0.2, abs=0.002)
    mean = now("time_per_output_token_seconds_sum", **GENERATE)
    assert mean == pytest.approx(decode / 8, rel=1e-6)
    # A request is in the queue, then in prefill, then decodes, and nothing else.
    whole = now("queue_seconds_sum", **GENERATE) + now("prefill_seconds_sum", **GENERATE) + decode
    assert 0 < whole <= now("request_seconds_sum", route="/generate")
    first = now("time_to_first_token_seconds_sum", **GENERATE)
    assert first < now("request_seconds_sum", route="/generate")


def test_the_second_reader_of_a_text_finds_it_in_the_cache(own: Live) -> None:
    body = {"prompt": "The old man and the sea. " * 40, "max_new_tokens": 1}
    before = Scrape(own)
    first = own.client.post("/generate", json=body).json()["usage"]
    between = Scrape(own)
    second = own.client.post("/generate", json=body).json()["usage"]
    after = Scrape(own)
    assert first["cached_tokens"] == 0 < second["cached_tokens"]
    assert between("cache_hits_total") == before("cache_hits_total")
    assert after("cache_hits_total") - between("cache_hits_total") == second["cached_tokens"]
    asked = after("cache_queries_total") - between("cache_queries_total")
    assert asked == second["prompt_tokens"]


def test_steps_count_their_sequences_and_tokens(own: Live) -> None:
    before = Scrape(own)
    body = {"prompt": ["abc", "xyz"], "max_new_tokens": 5, "ignore_eos": True}
    usage = own.client.post("/generate", json=body).json()["usage"]
    now = Scrape(own)
    steps = now("steps_total") - before("steps_total")
    assert steps == now("step_seconds_count") - before("step_seconds_count")
    assert 5 <= steps <= 7
    # All tokens but the last of each sequence were computed; each step had one or both.
    computed = now("step_tokens_sum") - before("step_tokens_sum")
    assert computed == usage["prompt_tokens"] + usage["completion_tokens"] - 2
    rows = now("step_sequences_sum") - before("step_sequences_sum")
    assert steps <= rows <= 2 * steps


def test_labels_and_reasons_of_each_task(own: Live) -> None:
    own.client.post("/classify", json={"text": ["abc", "xyz"]})
    own.client.post("/instruct", json={"instruction": "Rest.", "max_new_tokens": 2})
    stop = {"prompt": "a", "max_new_tokens": 500, "ignore_eos": True, "stop": list("aeiou tn")}
    assert own.client.post("/generate", json=stop).json()["choices"][0]["finish_reason"] == "stop"
    now = Scrape(own)
    spam = {"task": "classify", "model": "spam"}
    assert now("finished_total", reason="done", **spam) == 2
    assert now("time_to_first_token_seconds_count", **spam) == 1  # of one HTTP request
    assert now("decode_seconds_count", **spam) == 0
    assert now("request_output_tokens_count", **spam) == 0
    assert now("prefill_seconds_count", task="instruct", model="instruct") == 1
    assert now("finished_total", reason="stop", **GENERATE) == 1
    models = {s.labels["model"]: s.labels for s in now.families["penwright_model_info"].samples}
    cards = {card["name"]: card for card in own.client.get("/models").json()["models"]}
    assert set(models) == set(cards)
    for name, card in cards.items():
        assert models[name]["checkpoint"] == card["checkpoint"]
        assert models[name]["task"] in card["tasks"]


def test_requests_wait_run_and_are_refused(own: Live) -> None:
    idle = Scrape(own)
    assert idle("requests_running") == idle("requests_waiting") == idle("cache_usage_ratio") == 0
    connections = [send(own, "/generate", LONG) for _ in range(4)]
    own.wait(lambda: own.running() == 2 and own.waiting() == 2)
    assert own.client.post("/generate", json={"prompt": "a"}).status_code == 429
    busy = Scrape(own)
    assert busy("requests_running") == busy("requests_waiting") == busy("slots") == 2
    assert busy("rejections_total", reason="queue_full") == 1
    assert 0 < busy("cache_usage_ratio") <= 1
    for connection in connections:
        connection.close()
    own.wait(lambda: own.service.in_flight == 0)
    own.wait(lambda: own.running() == 0)
    left = Scrape(own)
    assert left("client_disconnects_total") == 4
    # The one that was refused never was a sequence.
    assert left("finished_total", reason="cancelled", **GENERATE) == 4
    assert left("rejections_total", reason="queue_full") == 1
    assert left("requests_running") == left("cache_usage_ratio") == 0


def test_each_refusal_counts_once_by_its_reason(own: Live) -> None:
    client = own.client
    assert client.post("/generate", json={"prompt": "a" * 9000}).status_code == 400
    assert client.post("/generate", json={"prompt": 5}).status_code == 422
    assert client.post("/generate", content=b"{", headers=JSON).status_code == 400
    assert client.post("/generate", content=b" " * (1 << 21)).status_code == 413
    assert client.post("/generate", json={"prompt": "a", "model": "x"}).status_code == 404
    assert client.get("/generate").status_code == 405
    assert client.get("/nowhere").status_code == 404
    now = Scrape(own)
    counted = {
        sample.labels["reason"]: sample.value
        for sample in now.families["penwright_rejections"].samples
        if sample.name.endswith("_total") and sample.value
    }
    assert counted == dict.fromkeys(
        (
            *("context_length", "invalid_field", "malformed_json", "body_too_large"),
            *("unknown_model", "method_not_allowed", "not_found"),
        ),
        1.0,
    )


def test_a_deadline_and_a_draining_service_count(checkpoints: Path) -> None:
    with serve(models=checkpoints, request_timeout=0.05) as live:
        assert live.client.post("/generate", json=LONG).status_code == 504
        live.service.drain()
        assert Scrape(live)("ready") == 0
        assert live.client.post("/generate", json=LONG).status_code == 503
        now = Scrape(live)
    assert now("finished_total", reason="deadline", **GENERATE) == 1
    assert now("rejections_total", reason="deadline") == 1
    assert now("rejections_total", reason="draining") == 1


def test_every_kind_of_problem_starts_at_zero() -> None:
    """A rate over a series that begins at one misses its first event."""
    # What a connection refuses never becomes a request.
    files = [file for file in (ROOT / "app").rglob("*.py") if file.name != "connections.py"]
    source = "\n".join(file.read_text() for file in files)
    patterns = (r'Problem\(\s*\d+,\s*"([a-z-]+)"', r'unavailable\(\s*"([a-z-]+)"')
    kinds = {kind for pattern in patterns for kind in re.findall(pattern, source)}
    assert len(kinds) > 10
    assert {kind.replace("-", "_") for kind in kinds} <= set(REJECTIONS)


def test_an_engine_that_is_replaced_leaves_its_counts(own: Live) -> None:
    """As a reload does: counters never go backwards, gauges forget what is gone."""
    own.client.post("/generate", json={"prompt": "a", "max_new_tokens": 3, "ignore_eos": True})
    metrics = own.service.metrics
    [engine_client] = own.service.engine_clients()
    before = metrics.engines.total()
    engine_client.stop(1.0)
    after = metrics.engines.total()
    for name in ("steps", "prompt_tokens", "generated_tokens", "token_gaps", "step_tokens"):
        assert getattr(after, name) == getattr(before, name)
    assert after.steps > 0 == after.cache_bytes == after.slots == after.blocks
    metrics.engines.add("new", lambda: before, [ModelInfo("base", "1", "generate")])
    both = metrics.engines.total()
    assert both.steps == 2 * before.steps
    assert both.token_gaps.total == pytest.approx(2 * before.token_gaps.total)
    assert both.slots == before.slots
    metrics.engines.remove("new")
    metrics.engines.remove("new")
    assert metrics.engines.total().steps == 2 * before.steps


def test_a_histogram_counts_a_bound_in_its_own_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value, times=2)
    distribution = histogram.distribution()
    assert distribution.counts == (4, 4, 2)
    assert distribution.total == 16.0
    assert (distribution + distribution).counts == (8, 8, 4)


def test_scrapes_beside_requests_never_fail_and_never_go_back(own: Live) -> None:
    def work() -> None:
        with httpx.Client(base_url=own.url, timeout=30) as client:
            for _ in range(5):
                client.post("/generate", json={"prompt": "a", "max_new_tokens": 20})

    with concurrent.futures.ThreadPoolExecutor() as pool:
        workers = [pool.submit(work) for _ in range(3)]
        last: dict[str, float] = {}
        while not all(worker.done() for worker in workers):
            now = Scrape(own)
            for family in now.families.values():
                for sample in family.samples:
                    if family.type in ("counter", "histogram") and "created" not in sample.name:
                        key = f"{sample.name}{sorted(sample.labels.items())}"
                        assert sample.value >= last.get(key, 0.0), key
                        last[key] = sample.value
            time.sleep(0.01)


# ---- names ----


def documented() -> dict[str, str]:
    """Name and type of each metric in docs/watching.md."""
    text = (ROOT / "docs" / "watching.md").read_text()
    return dict(re.findall(r"^\| `(\w+?)(?:\{[^`]*\})?` \| (\w+) \|", text, re.MULTILINE))


def test_names_follow_prometheus_and_are_all_documented(own: Live) -> None:
    own.client.post("/generate", json={"prompt": "a", "max_new_tokens": 1})
    families = Scrape(own).families
    names = {}
    for family in families.values():
        assert family.documentation
        assert re.fullmatch(r"(penwright|process)_[a-z0-9_]+", family.name)
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|pct)$", family.name)
        if family.type == "histogram":
            assert re.search(r"_(seconds|tokens|sequences)$", family.name), family.name
        if family.name.endswith("_created"):
            continue
        names[family.name + ("_total" if family.type == "counter" else "")] = family.type
    assert names == documented()


def used(text: str) -> set[str]:
    """Names of our series in PromQL."""
    return set(re.findall(r"\b(?:penwright|process)_[a-z0-9_]+", text))


@pytest.mark.parametrize(
    "path",
    [
        "monitoring/alerts.yml",
        "monitoring/grafana/dashboards/penwright.json",
        "docs/watching.md",
        "README.md",
    ],
)
def test_what_watches_asks_for_series_that_exist(own: Live, path: str) -> None:
    own.client.post("/generate", json={"prompt": "a", "max_new_tokens": 1})
    families: dict[str, Any] = Scrape(own).families
    there = {sample.name for family in families.values() for sample in family.samples}
    there |= {family.name for family in families.values()}
    names = used((ROOT / path).read_text())
    assert names or path == "README.md"
    assert names <= there, names - there


def test_the_state_of_a_failed_service_can_be_scraped(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text("{}")
    with serve(models=tmp_path, ready=False) as live:
        service: Service = live.service
        live.wait(lambda: service.state == "failed")
        now = Scrape(live)
        assert now("ready") == 0
        assert now("requests_running") == now("cache_usage_ratio") == 0
