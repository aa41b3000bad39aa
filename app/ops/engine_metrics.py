"""The figures of the engines and of their sequences, at the moment that Prometheus asks.

An engine that is stopped, as by a reload, leaves its counts behind: counters never go backwards.

An HTTP request has one sequence or several: prompts times `n`, or texts. Every event of the engines
is counted, so that does nothing that is not needed: plain numbers, which Prometheus' library sees
only when it asks.
"""

import threading
from collections import Counter
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

from model.engine.request import Timings
from model.engine.stats import COUNTS, STEP_SECONDS, Distribution, EngineStats, Histogram

SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""A small model answers within milliseconds: the library's own lowest bucket, 5 ms, is too
coarse."""
_HISTOGRAMS = {
    "time_to_first_token_seconds": (
        "Seconds from the submission of an HTTP request to its first piece of text, or its label",
        SECONDS,
    ),
    "queue_seconds": ("Seconds that a sequence waited to be admitted to a step", SECONDS),
    "prefill_seconds": ("Seconds from there to its first token, or its label", SECONDS),
    "decode_seconds": ("Seconds from there to its last token", SECONDS),
    "time_per_output_token_seconds": (
        "Seconds for each token after the first, as a sequence's mean",
        STEP_SECONDS,
    ),
    "request_prompt_tokens": ("Tokens of the prompt of a sequence", COUNTS),
    "request_output_tokens": ("Tokens that were generated for a sequence", COUNTS),
}
REASONS = (
    *("stop", "length", "eos", "done"),
    *("cancelled", "deadline", "shutdown", "internal", "constraint"),
)
"""How a sequence can end: `done` is a label or an embedding."""


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
            ("requests_waiting", "Sequences in the queue, or paused", total.waiting),
            ("requests_paused", "Sequences that have begun and have no turn", total.paused),
            ("slots", "Sequences that can be generated at once", total.slots),
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
    stats = replace(stats, running=0, waiting=0, paused=0, slots=0)
    return replace(stats, blocks=0, free_blocks=0, cache_bytes=0)


_TIMES = Histogram(STEP_SECONDS).distribution()
_SIZES = Histogram(COUNTS).distribution()
_NOTHING = EngineStats(
    **dict.fromkeys(
        (
            *("running", "waiting", "paused", "slots", "blocks", "free_blocks", "cache_bytes"),
            *("steps", "preemptions", "prompt_tokens", "cached_tokens", "generated_tokens"),
            *("drafted_tokens", "accepted_tokens", "forced_tokens"),
        ),
        0,
    ),
    step_seconds=_TIMES,
    step_sequences=_SIZES,
    step_tokens=_SIZES,
    token_gaps=_TIMES,
)


class SequenceFigures:
    """Of the sequences of one model, for one task. Used on the event loop alone."""

    def __init__(self) -> None:
        self.histograms = {name: Histogram(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
        self.reasons: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.first_token = self.histograms["time_to_first_token_seconds"].observe
        self._queue = self.histograms["queue_seconds"].observe
        self._prefill = self.histograms["prefill_seconds"].observe
        self._decode = self.histograms["decode_seconds"].observe
        self._per_token = self.histograms["time_per_output_token_seconds"].observe
        self._prompt = self.histograms["request_prompt_tokens"].observe
        self._output = self.histograms["request_output_tokens"].observe

    def finished(
        self, reason: str, prompt_tokens: int, completion_tokens: int, timings: Timings
    ) -> None:
        """A sequence got all that it was to get.

        Args:
            completion_tokens: 0 for a label or an embedding.
        """
        self.reasons[reason] += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self._queue(timings.queue)
        self._prefill(timings.prefill)
        self._prompt(prompt_tokens)
        if completion_tokens:
            self._decode(timings.decode)
            self._output(completion_tokens)
        if completion_tokens > 1:
            self._per_token(timings.decode / (completion_tokens - 1))

    def given_up(self, reason: str) -> None:
        """A sequence ended without a result: cancelled, or failed."""
        self.reasons[reason] += 1


class SequenceMetrics(Collector):
    """The figures of each task and model."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str], SequenceFigures] = {}

    def of(self, task: str, model: str) -> SequenceFigures:
        key = task, model
        if key not in self._figures:
            self._figures[key] = SequenceFigures()
        return self._figures[key]

    def collect(self) -> Iterable[Metric]:
        figures = list(self._figures.items())
        tokens = CounterMetricFamily(
            "penwright_tokens", "Tokens read and generated", None, ["kind"]
        )
        tokens.add_metric(["prompt"], sum(f.prompt_tokens for _, f in figures))
        tokens.add_metric(["completion"], sum(f.completion_tokens for _, f in figures))
        yield tokens
        labels = ["task", "model"]
        ends = CounterMetricFamily(
            "penwright_finished", "Sequences by how they ended", None, [*labels, "reason"]
        )
        for key, of_key in figures:
            for reason, count in of_key.reasons.items():
                ends.add_metric([*key, reason], count)
        yield ends
        for name, (text, _) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"penwright_{name}", text, None, None, labels)
            for key, of_key in figures:
                distribution = of_key.histograms[name].distribution()
                family.add_metric(key, buckets(distribution), distribution.total)
            yield family
