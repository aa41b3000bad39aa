"""The figures of sequences: how long each took, how long it was and how it ended.

An HTTP request has one sequence or several: prompts times `n`, or texts. Every event of the
engines passes here, so this does nothing that is not needed: plain numbers, which Prometheus'
library sees only when it asks.
"""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.ops.engine_metrics import buckets
from model.engine.request import Timings
from model.engine.stats import COUNTS, STEP_SECONDS, Histogram

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


class Figures:
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
        self._figures: dict[tuple[str, str], Figures] = {}

    def of(self, task: str, model: str) -> Figures:
        key = task, model
        if key not in self._figures:
            self._figures[key] = Figures()
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
