"""Next-token prediction on windows of text.

The loss is the mean cross-entropy of the next token over every position of every window.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.architecture import Architecture
from model.errors import UsageError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from training.data.order import MixedOrder
from training.data.tokens import TokenFiles, Windows
from training.loop.prepare import prepare
from training.loop.settings import LoopSettings
from training.loop.task import Batch
from training.measure.samples import continuations
from training.objectives.cross_entropy import token_loss

_PROMPTS = ("Once upon a time", "The king looked at", "The city is located in")
"""What samples continue."""


class Pretraining:
    """Next-token prediction on windows of text. A `training.loop.run.Task`.

    Args:
        length: tokens of a window.
        weights: of each file in the mixture, above 0; without, every window comes once an epoch.
    """

    name = "pretrain"
    keep_best = False
    lengths = None

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        files: TokenFiles,
        settings: LoopSettings,
        length: int,
        stride: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.trained = model
        self.tokenizer = tokenizer
        self.files = files
        self.settings = settings
        self.device = settings.torch_device
        self.train = Windows(files.train, length, stride, files.bounds if weights else None)
        self.order = MixedOrder(self.train.counts, weights, settings.seed) if weights else None
        if not len(self.train):
            raise UsageError(
                f"--context is {length}; the training part has only {len(files.train)} tokens"
            )
        # A short validation part is one window of what there is.
        val_length = min(length, len(files.val) - 1)
        if val_length < 1:
            raise UsageError("the validation part has no second token; raise --val-fraction")
        self.val = Windows(files.val, val_length, val_length)
        self.examples = len(self.train)
        self.tokens_per_example = length

    def batch(self, examples: Sequence[int]) -> Batch:
        return self._batch(self.train, examples)

    def _batch(self, windows: Windows, examples: Sequence[int]) -> Batch:
        inputs, targets = windows.batch(examples)
        lengths = torch.full((len(examples),), windows.length)
        return Batch(
            inputs.to(self.device), targets.to(self.device), lengths, count=targets.numel()
        )

    def loss(self, batch: Batch) -> Tensor:
        total, _ = token_loss(self.trained, self.trained(batch.inputs), batch.targets)
        return total

    def evaluate(self) -> dict[str, float]:
        """Loss and perplexity per token on windows spread evenly over the validation part."""
        size = self.settings.batch_size
        wanted = min(len(self.val), (self.settings.eval_batches or len(self.val)) * size)
        chosen = [index * len(self.val) // wanted for index in range(wanted)]
        total, count = 0.0, 0
        for start in range(0, wanted, size):
            batch = self._batch(self.val, chosen[start : start + size])
            total += self.loss(batch).item()
            count += batch.count
        loss = total / count
        return {"val_loss": loss, "val_perplexity": math.exp(min(loss, 700.0))}

    def samples(self) -> list[str]:
        return continuations(self.trained, self.tokenizer, _PROMPTS)


def new_model(config: Architecture, settings: LoopSettings) -> Transformer:
    """A network with fresh weights, drawn on the CPU: the same on every device."""
    model = Transformer(config, settings.dropout)
    model.init_weights(torch.Generator().manual_seed(settings.seed))
    prepare(model, settings)
    return model.to(settings.torch_device)
