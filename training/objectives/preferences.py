"""Which of two answers a network prefers: their log-probabilities, the objective of Direct
Preference Optimization (Rafailov et al., 2023, equation 7), and its figures.

The *reward* of an answer is beta × (its log-probability - the one that a frozen reference gives
it), and the loss of a pair is -log sigmoid(reward of the chosen - reward of the rejected answer).
A log-probability is the sum over the answer's tokens, the end token included, and not their mean:
that would be another objective.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoint import Base
from model.errors import UsageError
from model.prompts import Message, Template
from model.tokenizer import Tokenizer
from training.data.encodable import encodable
from training.data.lengths import Lengths, TooLong, report_too_long
from training.data.preferences import Preference, PreferenceData
from training.loop.settings import LoopSettings
from training.loop.task import Batch, padded_length
from training.measure.answers import respond
from training.objectives.conversations import Conversation, formed, pad, tokens_of
from training.objectives.cross_entropy import row_log_probs
from training.tuning.methods import Tuning, report_parts
from training.tuning.network import Network

_ROWS = 16  # of a forward pass when measuring: fixed, so that a measurement can be repeated


@dataclass(frozen=True)
class PreferencePairs:
    """Encoded preferences."""

    chosen: tuple[Conversation, ...]
    rejected: tuple[Conversation, ...]
    rows: tuple[Preference, ...]
    """What the pairs are made of."""
    too_long: tuple[TooLong, ...] = ()
    """Rows of which an answer is too long: left out, or cut."""

    def __len__(self) -> int:
        return len(self.rows)

    def longest(self) -> "PreferencePairs":
        """Those alone that measuring takes the most memory for."""
        both = (self.chosen, self.rejected)
        length = {i: max(len(part[i].tokens) for part in both) for i in range(len(self))}
        last = sorted(length, key=length.__getitem__)[-_ROWS:]
        chosen, rejected = (tuple(part[i] for i in last) for part in both)
        return PreferencePairs(chosen, rejected, tuple(self.rows[i] for i in last))


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


def encode(
    rows: Sequence[Preference],
    tokenizer: Tokenizer,
    limit: int,
    template: Template,
    *,
    cut: bool = False,
) -> PreferencePairs:
    """Tokens of each row, of which only the two answers count.

    Args:
        limit: tokens of a row. One of which an answer is longer is left out: cut, the answer would
            be compared without its end.
        cut: cut longer ones nevertheless, but for those of which nothing would be compared.
    """

    def form(row: Preference) -> tuple[Conversation, Conversation]:
        before = [replace(message, learnt=False) for message in row.question.messages]
        chosen, rejected = (
            tokens_of([*before, Message("assistant", answer)], tokenizer, template)
            for answer in (row.chosen, row.rejected)
        )
        return chosen, rejected

    rows = encodable(rows, lambda row: [*row.question.texts, row.rejected], tokenizer)
    kept: list[tuple[Conversation, Conversation, Preference]] = []
    long = []
    for row, (chosen, rejected) in formed(rows, form, lambda row: row.instruction, template):
        size = max(len(chosen.tokens), len(rejected.tokens))
        if size > limit:
            long.append(TooLong(row.instruction, size))
            chosen, rejected = chosen.cut(limit), rejected.cut(limit)
            if not (cut and chosen.targets and rejected.targets):
                continue
        kept.append((chosen, rejected, row))
    return PreferencePairs(
        chosen=tuple(chosen for chosen, _, _ in kept),
        rejected=tuple(rejected for _, rejected, _ in kept),
        rows=tuple(row for _, _, row in kept),
        too_long=tuple(long),
    )


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
        batch = pad([answers[index] for index in indices], padding, network.device)
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


@dataclass(frozen=True, kw_only=True)
class PreferenceBatch(Batch):
    """The chosen answers, then the rejected ones in the same order: `count` rows of each."""

    reference: Tensor
    """The reference's log-probability of each row, (2 × count,)."""


class PreferenceTuning:
    """Preferred answers. A `training.loop.run.Task`."""

    name = "dpo"
    keep_best = True

    def __init__(
        self,
        tuning: Tuning,
        reference: Network,
        train: PreferencePairs,
        val: PreferencePairs,
        objective: Objective,
        settings: LoopSettings,
        template: Template,
    ) -> None:
        self.base, self.template = tuning.base, template
        self.trained = tuning.trained
        self.network = tuning.network
        self.train, self.val = train, val
        self.objective = objective
        self.settings = settings
        self.padding = tuning.base.tokenizer.end_token
        self.device = settings.torch_device
        self.examples = len(train)
        self.lengths = [
            max(len(chosen.tokens), len(rejected.tokens))
            for chosen, rejected in zip(train.chosen, train.rejected, strict=True)
        ]
        self.tokens_per_example = 2 * padded_length(
            self.lengths, settings.batch_size, settings.seed
        )
        # The reference never changes, so it is asked once; in the precision of the training, so
        # that at first every reward is 0, rounding aside.
        self.reference_train, self.reference_val = (
            log_probs(reference, part, self.padding, autocast=settings.autocast)
            for part in (train, val)
        )

    def batch(self, examples: Sequence[int]) -> PreferenceBatch:
        return self._batch(self.train, self.reference_train, examples)

    def loss(self, batch: Batch) -> Tensor:
        assert isinstance(batch, PreferenceBatch)
        return self.objective.losses(self._policy(batch), batch.reference).sum()

    def evaluate(self) -> dict[str, float]:
        """Loss and rewards of pairs spread evenly over the validation part."""
        size = self.settings.batch_size
        wanted = min(len(self.val), (self.settings.eval_batches or len(self.val)) * size)
        spread = [index * len(self.val) // wanted for index in range(wanted)]
        policy, reference = [], []
        for start in range(0, wanted, size):
            batch = self._batch(self.val, self.reference_val, spread[start : start + size])
            policy.append(self._policy(batch).view(2, -1))
            reference.append(batch.reference.view(2, -1))
        both = torch.cat(policy, dim=1).flatten(), torch.cat(reference, dim=1).flatten()
        return {f"val_{name}": value for name, value in figures(self.objective, *both).items()}

    def samples(self) -> list[str]:
        """What it answers to questions of the validation part."""
        base = replace(self.base, model=self.network.model)
        questions = [row.question for row in self.val.rows[:2]]
        responses = respond(base, self.network.lora, questions, self.template, max_new_tokens=48)
        return [f"{response.instruction} {response.response}" for response in responses]

    def _batch(
        self, pairs: PreferencePairs, reference: Tensor, examples: Sequence[int]
    ) -> PreferenceBatch:
        indices = list(examples)
        answers = [part[index] for part in (pairs.chosen, pairs.rejected) for index in indices]
        both = pad(answers, self.padding, self.device)
        return PreferenceBatch(
            both.inputs,
            both.targets,
            both.lengths,
            count=len(indices),
            reference=reference[:, indices].flatten().to(self.device),
        )

    def _policy(self, batch: PreferenceBatch) -> Tensor:
        hidden = self.network.hidden(batch.inputs)
        return row_log_probs(self.network.model, hidden, batch.targets)


def encode_parts(
    data: PreferenceData,
    base: Base,
    paths: Sequence[Path],
    template: Template,
    lengths: Lengths | None = None,
) -> dict[str, PreferencePairs]:
    """The three parts as tokens; says on stderr what is left out.

    Raises:
        UsageError: the length that is asked for is above the base's context.
        DataError: nothing of a part fits.
    """
    lengths = lengths or Lengths()
    limit = lengths.limit(base.config.context_length)
    parts = {
        name: encode(rows, base.tokenizer, limit, template, cut=lengths.cut)
        for name, rows in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    if data.equal:
        print(
            f"{data.equal} pairs are left out, for their two answers are equal: "
            f"{'; '.join(data.equal_at)}",
            file=sys.stderr,
        )
    if data.unused:
        print(
            f"{len(data.unused)} pairs are left out: their questions are set apart by --val or "
            "--test, or are and were learnt before",
            file=sys.stderr,
        )
    long = [row for part in parts.values() for row in part.too_long]
    report_too_long(long, limit, "pairs", cut=lengths.cut)
    report_parts(
        "pairs",
        {name: len(part) for name, part in parts.items()},
        paths=paths,
        limit=limit,
        rows=data.rows,
        duplicates=data.duplicates,
    )
    return parts
