"""Labels and embeddings of a step as events: the results that need no drawing."""

import math
from collections.abc import Iterable, Iterator

from model.engine.request import Classified, Embedded, Event, Failed
from model.engine.runner import StepOutput
from model.engine.scheduler import Sequence


def results(output: StepOutput, now: float) -> Iterator[tuple[Sequence, list[Event]]]:
    """Each sequence that got its label or embedding, with its one event.

    Args:
        now: on the clock of `time.monotonic`.
    """
    for chunk, probabilities, logits in output.classified:
        sequence = chunk.sequence
        sequence.first_result = now
        event: Event = Classified(
            probabilities, logits, sequence.prompt_length, sequence.reused, sequence.timings(now)
        )
        yield sequence, [_usable(event, probabilities, "probabilities")]
    for chunk, values in output.embedded:
        sequence = chunk.sequence
        sequence.first_result = now
        event = Embedded(values, sequence.prompt_length, sequence.timings(now))
        yield sequence, [_usable(event, values, "hidden states")]


def _usable(event: Event, numbers: Iterable[float], name: str) -> Event:
    """`event`; or a failure where the network gave infinities or NaN."""
    if all(map(math.isfinite, numbers)):
        return event
    return Failed("internal", f"the network gave no usable {name}")
