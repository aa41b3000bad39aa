"""What Prometheus sees of the service.

Everything hangs on a registry of its own, so that two apps in one process do not share figures.
docs/watching.md lists every name, as `penwright_` ones are a contract.
"""

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from app.ops.engine_metrics import SECONDS, EngineMetrics, SequenceMetrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

REJECTIONS = (
    *("body_too_large", "content_encoding", "context_length", "cross_origin", "deadline"),
    *("draining", "engine_dead"),
    *("engine_stuck", "explain_length", "failed", "forbidden", "headers_too_large"),
    *("host_not_allowed", "internal", "invalid_field", "loading", "malformed_json"),
    *("malformed_request", "method_not_allowed", "no_keys", "not_found", "over_key_limit"),
    *("priority_not_allowed", "queue_full", "rate_limit", "reload_in_progress"),
    *("reload_refused", "request_timeout", "task_not_served", "too_many_requests"),
    *("unauthorized", "unknown_model", "unread_answers"),
)
"""Kinds of problems, as the end of their `type` names them: they start at zero, so that rates are
right from the first one on. Others appear when they happen."""


class Metrics:
    """The figures of one app.

    Args:
        ready: whether requests can be answered; read when Prometheus asks.
    """

    def __init__(self, ready: Callable[[], bool] = lambda: False) -> None:
        self._registry = registry = CollectorRegistry()
        self.engines = EngineMetrics()
        registry.register(self.engines)
        self.sequences = SequenceMetrics()
        registry.register(self.sequences)
        self._requests = Counter(
            "penwright_requests",
            "HTTP requests answered",
            ("route", "status", "key"),
            registry=registry,
        )
        self._seconds = Histogram(
            "penwright_request_seconds",
            "Seconds from the arrival of an HTTP request to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self._rejections = Counter(
            "penwright_rejections",
            "HTTP requests that were refused or given up, by the kind of problem",
            ("reason",),
            registry=registry,
        )
        for reason in REJECTIONS:
            self._rejections.labels(reason)
        self._disconnects = Counter(
            "penwright_client_disconnects",
            "HTTP requests whose client left before the answer was complete",
            registry=registry,
        )
        self._reloads = Counter(
            "penwright_reloads", "Model sets that were to be loaded", ("result",), registry=registry
        )
        for result in ("ok", "refused"):
            self._reloads.labels(result)
        Gauge("penwright_ready", "1 while requests are taken", registry=registry).set_function(
            lambda: float(ready())
        )
        _build(registry)
        ProcessCollector(registry=registry)

    def request(self, route: str, status: int, seconds: float, key: str | None = None) -> None:
        """Count an answered HTTP request.

        Args:
            route: the path of the route, not of the request: paths are without number.
            key: label of the API key that it came with.
        """
        self._requests.labels(route, str(status), key or "").inc()
        self._seconds.labels(route).observe(seconds)

    def rejection(self, problem: str) -> None:
        """Count an HTTP request that was answered a problem.

        Args:
            problem: its kind.
        """
        self._rejections.labels(problem.replace("-", "_")).inc()

    def disconnect(self) -> None:
        """Count an HTTP request whose client left."""
        self._disconnects.inc()

    def reload(self, *, ok: bool) -> None:
        """Count a model set that is served now, or was refused."""
        self._reloads.labels("ok" if ok else "refused").inc()

    def render(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)


def _build(registry: CollectorRegistry) -> None:
    versions = {"version": package_version("penwright"), "torch": package_version("torch")}
    versions["python"] = platform.python_version()
    build = Gauge("penwright_build_info", "What runs here", tuple(versions), registry=registry)
    build.labels(*versions.values()).set(1)


def package_version(package: str) -> str:
    """Of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source, uninstalled
        return "unknown"
