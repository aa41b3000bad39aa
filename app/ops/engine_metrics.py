"""The figures of the engines, all of them together, at the moment that Prometheus asks.

An engine that is stopped, as by a reload, leaves its counts behind: counters never go backwards.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from model.engine.stats import COUNTS, STEP_SECONDS, Distribution, EngineStats, Histogram


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, for `penwright_model_info`."""

    model: str
    checkpoint: str
    task: str


def buckets(distribution: Distribution) -> list[tuple[str, float]]:
    """As Prometheus wants them: (upper end, values up to there)."""
    ends = [*map(floatToGoString, distribution.bounds), "+Inf"]
    return list(zip(ends, map(float, accumulate(distribution.counts)), strict=True))


class EngineMetrics(Collector):
    """Collects from every engine that runs. Engines come and go in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[object, tuple[Callable[[], EngineStats], Sequence[ModelInfo]]] = {}
        self._stopped = _NOTHING

    def add(
        self, engine: object, stats: Callable[[], EngineStats], models: Sequence[ModelInfo]
    ) -> None:
        """Count `engine` in from now on.

        Args:
            stats: gives its figures; read when Prometheus asks.
            models: that it runs.
        """
        with self._lock:
            self._engines[engine] = stats, models

    def remove(self, engine: object) -> None:
        """An engine has stopped; what it counted is kept. May be called more than once."""
        with self._lock:
            if engine in self._engines:
                stats, _ = self._engines.pop(engine)
                self._stopped = _add(self._stopped, _past(stats()))

    def total(self) -> EngineStats:
        """The sum of all engines."""
        with self._lock:
            return reduce(_add, (stats() for stats, _ in self._engines.values()), self._stopped)

    def collect(self) -> Iterable[Metric]:
        total = self.total()
        used = (total.blocks - total.free_blocks) / (total.blocks or 1)
        for name, text, value in (
            ("requests_running", "Sequences being computed", total.running),
            ("requests_waiting", "Sequences in the queue", total.waiting),
            ("slots", "Sequences that can be computed at once", total.slots),
            ("cache_bytes", "Memory for keys and values", total.cache_bytes),
            ("cache_usage_ratio", "Share of it that running sequences use", used),
        ):
            yield GaugeMetricFamily(f"penwright_{name}", text, value=value)
        for name, text, value in (
            ("preemptions", "Sequences sent back to wait", total.preemptions),
            ("cache_queries", "Prompt tokens looked up in the cache", total.prompt_tokens),
            ("cache_hits", "Prompt tokens found in the cache", total.cached_tokens),
            ("steps", "Steps of the engines", total.steps),
            ("drafted_tokens", "Tokens computed in advance", total.drafted_tokens),
            (
                "accepted_tokens",
                "Tokens computed in advance that were drawn, and spared a step",
                total.accepted_tokens,
            ),
            (
                "forced_tokens",
                "Tokens that a constraint left no choice about, and that were not drawn",
                total.forced_tokens,
            ),
            (
                "generated_tokens",
                "Tokens drawn or forced, as they come; also for requests that do not end well, "
                "and for health checks",
                total.generated_tokens,
            ),
        ):
            yield CounterMetricFamily(f"penwright_{name}", text, value=value)
        for name, text, distribution in (
            ("step_seconds", "Seconds that a step took", total.step_seconds),
            ("step_sequences", "Sequences in a step", total.step_sequences),
            ("step_tokens", "Tokens computed in a step", total.step_tokens),
            (
                "inter_token_latency_seconds",
                "Seconds from one token of a sequence to its next",
                total.token_gaps,
            ),
        ):
            yield HistogramMetricFamily(
                f"penwright_{name}", text, buckets(distribution), distribution.total
            )
        yield self._infos()

    def _infos(self) -> Metric:
        family = InfoMetricFamily(
            "penwright_model", "What is served", labels=("model", "checkpoint", "task")
        )
        with self._lock:
            infos = {info for _, models in self._engines.values() for info in models}
        for info in sorted(infos, key=lambda info: (info.model, info.checkpoint)):
            family.add_metric((info.model, info.checkpoint, info.task), {})
        return family


def _add(one: EngineStats, other: EngineStats) -> EngineStats:
    names = [field.name for field in fields(EngineStats)]
    return EngineStats(*(getattr(one, name) + getattr(other, name) for name in names))


def _past(stats: EngineStats) -> EngineStats:
    """What is left of an engine that has stopped: its counts, without what it held."""
    return replace(stats, running=0, waiting=0, slots=0, blocks=0, free_blocks=0, cache_bytes=0)


_TIMES = Histogram(STEP_SECONDS).distribution()
_SIZES = Histogram(COUNTS).distribution()
_NOTHING = EngineStats(
    **dict.fromkeys(
        (
            *("running", "waiting", "steps", "slots", "blocks", "free_blocks", "cache_bytes"),
            *("preemptions", "prompt_tokens", "cached_tokens", "generated_tokens"),
            *("drafted_tokens", "accepted_tokens", "forced_tokens"),
        ),
        0,
    ),
    step_seconds=_TIMES,
    step_sequences=_SIZES,
    step_tokens=_SIZES,
    token_gaps=_TIMES,
)
