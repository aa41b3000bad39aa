"""What an engine counts while it turns: per step, not per token, for steps take milliseconds."""

from collections import Counter
from collections.abc import Iterable, Sequence

from model.engine.histogram import Histogram
from model.engine.scheduler import Chunk
from model.engine.scheduler import Sequence as RunningSequence

STEP_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
"""Upper ends of buckets for what takes about a step: small models make one in a millisecond."""
COUNTS = tuple(float(2**power) for power in range(14))
"""1 to 8192, for sequences and tokens."""


class Tally:
    """The figures of one engine, since its start. Written by the engine's thread."""

    def __init__(self) -> None:
        self.steps = 0
        self.generated_tokens = 0
        self.step_seconds = Histogram(STEP_SECONDS)
        self.step_sequences = Histogram(COUNTS)
        self.step_tokens = Histogram(COUNTS)
        self.token_gaps = Histogram(STEP_SECONDS)

    def step(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """A step of `chunks` has ended, well or not."""
        self.steps += 1
        self.step_seconds.observe(seconds)
        self.step_sequences.observe(len(chunks))
        self.step_tokens.observe(sum(chunk.length for chunk in chunks))

    def drawn(self, sequences: Iterable[RunningSequence], now: float) -> None:
        """Each of `sequences` got a token `now`, on the clock of `time.monotonic`."""
        # Most of them got their last one at the same moment: there are few different gaps.
        last: Counter[float] = Counter()
        for sequence in sequences:
            last[sequence.last_token] += 1
            sequence.last_token = now
        self.generated_tokens += last.total()
        last.pop(0.0, None)  # first tokens: their time is that to the first token
        for moment, times in last.items():
            self.token_gaps.observe(now - moment, times)
