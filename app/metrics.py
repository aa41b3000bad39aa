"""What Prometheus sees of the service.

Everything hangs on a registry of its own, so that two apps in one process do not share figures.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from model.engine.request import EngineStats

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# A small model answers within milliseconds: the library's own lowest bucket, 5 ms, is too coarse.
_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)


class _Engines(Collector):
    """The figures of the engines, all of them together, at the moment that Prometheus asks."""

    def __init__(self, stats: Callable[[], Sequence[EngineStats]]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        engines = self._stats()
        blocks = sum(engine.blocks for engine in engines)
        used = blocks - sum(engine.free_blocks for engine in engines)
        for name, text, value in (
            ("requests_running", "Sequences being computed", sum(e.running for e in engines)),
            ("requests_waiting", "Sequences in the queue", sum(e.waiting for e in engines)),
            ("cache_bytes", "Memory for keys and values", sum(e.cache_bytes for e in engines)),
            ("cache_usage_ratio", "Share of it that running sequences use", used / (blocks or 1)),
        ):
            yield GaugeMetricFamily(f"penwright_{name}", text, value=value)
        for name, text, value in (
            ("preemptions", "Sequences sent back to wait", sum(e.preemptions for e in engines)),
            ("cache_queries", "Prompt tokens looked up", sum(e.prompt_tokens for e in engines)),
            ("cache_hits", "Prompt tokens found", sum(e.cached_tokens for e in engines)),
        ):
            yield CounterMetricFamily(f"penwright_{name}", text, value=value)


class Metrics:
    """The figures of one app.

    Args:
        stats: figures of each engine now; read when Prometheus asks.
    """

    def __init__(self, stats: Callable[[], Sequence[EngineStats]]) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Engines(stats))
        self._requests = Counter(
            "penwright_requests", "HTTP requests answered", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "penwright_request_seconds",
            "Seconds from the arrival of an HTTP request to the end of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "penwright_tokens", "Tokens read and generated", ("kind",), registry=registry
        )
        # Known labels start at zero, so that rates are right from the first request on.
        self._prompt_tokens = self._tokens.labels("prompt")
        self._completion_tokens = self._tokens.labels("completion")
        self._first_token = Histogram(
            "penwright_time_to_first_token_seconds",
            "Seconds from the submission of a request to its first piece of text, or its label",
            buckets=_SECONDS,
            registry=registry,
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered HTTP request.

        Args:
            route: the path of the route, not of the request: paths are without number.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def tokens(self, prompt: int, completion: int) -> None:
        self._prompt_tokens.inc(prompt)
        self._completion_tokens.inc(completion)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def render(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
