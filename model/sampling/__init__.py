"""From logits to the next token, for rows that each have their own settings.

Logits pass through a list of processors (penalties, and whatever a request brings along) before a
token is drawn. `device.probabilities` says what each row is drawn from, and `device.sample`
draws from that with operations of whole batches. On a CPU, `cpu.draw` comes to the same in a
fraction of the time, and computes for a row only what it asks for.

Each request brings the uniform number that its draw uses, from a generator of its own: what a row
gets depends on its seed and its logits, never on its neighbours, their number or the threads.
"""

from collections.abc import Sequence

from torch import Tensor

from model.sampling import device
from model.sampling.cpu import draw
from model.sampling.processors import LogitBias, Penalties, Processor, penalise
from model.sampling.settings import SamplingSettings

__all__ = ["LogitBias", "Penalties", "Processor", "SamplingSettings", "penalise", "sample"]


def sample(
    logits: Tensor, settings: Sequence[SamplingSettings], uniforms: Sequence[float]
) -> list[int | None]:
    """One token for each row: the inverse of its distribution function at its uniform number.

    Args:
        logits: (rows, vocab), after the processors.
        settings: one for each row.
        uniforms: a number in [0, 1) for each row; unused where the temperature is 0.

    Returns:
        the token ids; None for a row with a logit that is not a number or +inf, or all at -inf
    """
    if logits.device.type != "cpu":
        return device.sample(logits, settings, uniforms)
    return [
        draw(
            row,
            uniform,
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
        )
        for row, wanted, uniform in zip(
            logits.float().contiguous().numpy(), settings, uniforms, strict=True
        )
    ]
