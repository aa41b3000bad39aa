"""Direct Preference Optimization as a task of the training loop; see `objectives.preferences`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.commands.instruct import pair_batch
from training.loop.run import Batch
from training.loop.settings import LoopSettings
from training.measure.answers import respond
from training.objectives.cross_entropy import row_log_probs
from training.objectives.preferences import Objective, PreferencePairs, figures, log_probs
from training.tuning.methods import Network, Tuning, padded_length


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
    ) -> None:
        self.base = tuning.base
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
        self.tokens_per_example = 2 * padded_length(self.lengths, settings.batch_size)
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
        responses = respond(base, self.network.lora, questions, max_new_tokens=48)
        return [f"{response.instruction} {response.response}" for response in responses]

    def _batch(
        self, pairs: PreferencePairs, reference: Tensor, examples: Sequence[int]
    ) -> PreferenceBatch:
        indices = list(examples)
        answers = [part[index] for part in (pairs.chosen, pairs.rejected) for index in indices]
        both = pair_batch(answers, self.padding, self.device)
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
