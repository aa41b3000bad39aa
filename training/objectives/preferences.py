"""Which of two answers a network prefers: their log-probabilities, the objective of Direct
Preference Optimization (Rafailov et al., 2023, equation 7), and its figures.

The *reward* of an answer is beta × (its log-probability - the one that a frozen reference gives
it), and the loss of a pair is -log sigmoid(reward of the chosen - reward of the rejected answer).
A log-probability is the sum over the answer's tokens, the end token included, and not their mean:
that would be another objective.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoint import Base
from model.errors import UsageError
from model.prompts import instruction_prompt
from model.tokenizer import Tokenizer
from training.commands.instruct import Pair, pair_batch
from training.data.encodable import encodable
from training.data.preferences import SPLIT_RULE, Preference, PreferenceData
from training.measure.classifier_metrics import proportion
from training.objectives.cross_entropy import row_log_probs
from training.tuning.methods import Network, report_parts

_ROWS = 16  # of a forward pass when measuring: fixed, so that a measurement can be repeated


@dataclass(frozen=True)
class PreferencePairs:
    """Encoded preferences."""

    chosen: tuple[Pair, ...]
    rejected: tuple[Pair, ...]
    rows: tuple[Preference, ...]
    """What the pairs are made of."""
    too_long: int
    """Rows left out because one of their answers does not fit the context."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Objective:
    """The loss and its settings."""

    beta: float
    """How much a change of log-probability counts: the lower, the further from the reference."""
    label_smoothing: float = 0.0
    """The share of pairs that are taken to be the wrong way round (Mitchell, 2023: cDPO)."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise UsageError(f"--beta is {self.beta}; it must be a finite number above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UsageError(f"--label-smoothing is {self.label_smoothing}; it must be in [0, 0.5)")

    def rewards(self, policy: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Of the chosen and of the rejected answers, (n,) each.

        Args:
            policy: summed log-probabilities, (2 × n,): the chosen answers, then the rejected.
            reference: the same of the reference.
        """
        chosen, rejected = (self.beta * (policy - reference)).chunk(2)
        return chosen, rejected

    def losses(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Of each pair, (n,); see `rewards`."""
        chosen, rejected = self.rewards(policy, reference)
        margin, smoothing = chosen - rejected, self.label_smoothing
        return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def encode(rows: Sequence[Preference], tokenizer: Tokenizer, context: int) -> PreferencePairs:
    """Tokens of each row. A row of which an answer does not fit the context is left out: cut, the
    answer would be compared without its end."""
    before = tokenizer.prefix
    rows = encodable(
        rows, lambda row: (row.instruction, row.input, row.chosen, row.rejected), tokenizer
    )
    prompts = tokenizer.encode_batch([instruction_prompt(r.instruction, r.input) for r in rows])
    chosen_answers = tokenizer.encode_batch([row.chosen for row in rows])
    rejected_answers = tokenizer.encode_batch([row.rejected for row in rows])
    kept: list[tuple[Pair, Pair, Preference]] = []
    for row, prompt, *both in zip(rows, prompts, chosen_answers, rejected_answers, strict=True):
        chosen, rejected = (
            Pair((*before, *prompt, *answer, tokenizer.end_token), len(before) + len(prompt))
            for answer in both
        )
        if max(len(chosen.tokens), len(rejected.tokens)) <= context:
            kept.append((chosen, rejected, row))
    return PreferencePairs(
        chosen=tuple(chosen for chosen, _, _ in kept),
        rejected=tuple(rejected for _, rejected, _ in kept),
        rows=tuple(row for _, _, row in kept),
        too_long=len(rows) - len(kept),
    )


def encode_parts(
    data: PreferenceData, base: Base, paths: Sequence[Path]
) -> dict[str, PreferencePairs]:
    """The three parts as tokens; says on stderr what is left out.

    Raises:
        DataError: nothing of a part fits the context.
    """
    context = base.config.context_length
    parts = {
        name: encode(rows, base.tokenizer, context)
        for name, rows in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    if data.equal:
        print(
            f"{data.equal} pairs are left out, for their two answers are equal: "
            f"{'; '.join(data.equal_at)}",
            file=sys.stderr,
        )
    report_parts(
        "pairs",
        {name: len(part) for name, part in parts.items()},
        paths=paths,
        context=context,
        rows=data.rows,
        duplicates=data.duplicates,
        too_long=sum(part.too_long for part in parts.values()),
    )
    return parts


def data_fields(data: PreferenceData, parts: Mapping[str, PreferencePairs]) -> dict[str, Any]:
    """What the card says of the data."""
    return {
        "files": list(data.sources),
        "rows": data.rows,
        "duplicates": data.duplicates,
        "equal": data.equal,
        "split": {
            "rule": SPLIT_RULE,
            "counts": {name: len(part) for name, part in parts.items()},
        },
        "too_long": {name: part.too_long for name, part in parts.items()},
    }


@torch.no_grad()
def log_probs(
    network: Network, pairs: PreferencePairs, padding: int, *, autocast: bool = False
) -> Tensor:
    """The summed log-probability of each answer, (2, n) on the network's device: the chosen
    answers, then the rejected."""
    answers = [*pairs.chosen, *pairs.rejected]
    by_length = sorted(range(len(answers)), key=lambda index: len(answers[index].tokens))
    result = torch.empty(len(answers), device=network.device)
    for start in range(0, len(by_length), _ROWS):
        indices = by_length[start : start + _ROWS]
        batch = pair_batch([answers[index] for index in indices], padding, network.device)
        with torch.autocast(network.device.type, torch.bfloat16, enabled=autocast):
            hidden = network.hidden(batch.inputs)
            result[indices] = row_log_probs(network.model, hidden, batch.targets)
    return result.view(2, -1)


def figures(objective: Objective, policy: Tensor, reference: Tensor) -> dict[str, float]:
    """Means over the pairs; `accuracy` is the share whose chosen answer has the higher reward.

    Args:
        policy, reference: see `Objective.rewards`.
    """
    chosen, rejected = objective.rewards(policy, reference)
    return {
        "loss": objective.losses(policy, reference).mean().item(),
        "accuracy": (chosen > rejected).float().mean().item(),
        "margin": (chosen - rejected).mean().item(),
        "chosen_reward": chosen.mean().item(),
        "rejected_reward": rejected.mean().item(),
    }


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
