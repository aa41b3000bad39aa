"""How well a network tells preferred answers from rejected ones."""

from typing import Any

from training.measure.intervals import proportion
from training.objectives.preferences import Objective, PreferencePairs, figures, log_probs
from training.tuning.network import Network


def measure(
    network: Network, reference: Network, pairs: PreferencePairs, objective: Objective, padding: int
) -> dict[str, Any]:
    """The figures of all pairs, in fp32; the accuracy with its interval."""
    policy, before = (
        log_probs(each, pairs, padding).flatten().cpu() for each in (network, reference)
    )
    chosen, rejected = objective.rewards(policy, before)
    return {
        "n": len(pairs),
        **figures(objective, policy, before),
        "accuracy": proportion(int((chosen > rejected).sum()), len(pairs)),
    }
