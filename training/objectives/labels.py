"""Labels of texts: their encoding, and the loss that learns them.

The head reads the hidden state of the last real token, or that and the mean of all. The loss is the
mean cross-entropy over rows; with `--lm-weight`, the next-token loss on the training texts is added
to it (Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018, section
3.2), which keeps a small network from learning the labels by heart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor

from model.classifier import POOLINGS, ClassifierHead
from model.errors import UsageError
from model.tokenizer import Tokenizer
from training.data.augment import Augmentation, Copies
from training.data.encodable import check_encodable
from training.data.labelled import Example
from training.data.order import Order, ShuffledOrder
from training.loop import distributed
from training.loop.settings import LoopSettings
from training.loop.task import IGNORE, Batch, pad_rows, padded_length
from training.objectives.cross_entropy import token_loss
from training.tuning.frozen import FrozenStates, hidden_from
from training.tuning.methods import Tuning
from training.tuning.network import Network

CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class Options:
    """What a classifier's training has beside the loop's settings. Each field is a flag."""

    class_weights: str = "none"
    """`balanced`: rows of rare labels count more, so that all labels count the same."""
    lm_weight: float = 0.0
    """Weight of the next-token loss on the training texts."""
    augment: tuple[str, ...] = ()
    """Changes to the training texts; see `training.data.augment`."""
    pooling: str = "last"
    """What the head reads; see `model.classifier.POOLINGS`."""
    cache_mb: int = 1024
    """Megabytes of frozen activations to keep in memory, above which they are kept on disk; 0
    computes them anew in every epoch."""

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise UsageError(
                f"--class-weights is {self.class_weights!r}; it must be one of "
                f"{', '.join(CLASS_WEIGHTS)}"
            )
        if not 0 <= self.lm_weight < float("inf"):
            raise UsageError(f"--lm-weight is {self.lm_weight}; it must be at least 0")
        if self.cache_mb < 0:
            raise UsageError(f"--cache-mb is {self.cache_mb}; it must be at least 0")
        if self.pooling not in POOLINGS:
            raise UsageError(
                f"--pooling is {self.pooling!r}; it must be one of {', '.join(POOLINGS)}"
            )
        Augmentation.parse(self.augment)

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation.parse(self.augment)

    def check(self, method: str) -> None:
        """
        Raises:
            UsageError: a value does not fit the method.
        """
        if method == "head" and self.lm_weight:
            raise UsageError(
                f"--lm-weight is {self.lm_weight}; with --method head nothing learns from the "
                "next-token loss"
            )


@dataclass(frozen=True)
class Rows:
    """Encoded texts."""

    tokens: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]
    """Indices of the labels."""
    truncated: int
    """Texts that were cut at the end."""


def encode(
    examples: Sequence[Example], names: Sequence[str], tokenizer: Tokenizer, limit: int
) -> Rows:
    """Tokens and label index of each text, which begins as the tokenizer begins every text.

    Args:
        limit: tokens of a text; a longer one is cut.

    Raises:
        DataError: a text cannot be tokenized; names it.
    """
    texts = [example.text for example in examples]
    check_encodable(texts, tokenizer)
    encoded = [(*tokenizer.prefix, *tokens) for tokens in tokenizer.encode_batch(texts)]
    return Rows(
        tokens=tuple(tokens[:limit] for tokens in encoded),
        targets=tuple(names.index(example.label) for example in examples),
        truncated=sum(len(tokens) > limit for tokens in encoded),
    )


def head_of(network: Network) -> ClassifierHead:
    assert network.head is not None
    return network.head


@dataclass(frozen=True)
class TextBatch(Batch):
    """Texts of one forward pass."""

    states: Tensor | None = None
    """What the frozen beginning of the network made of them earlier; see `FrozenStates.batch`."""


class Classification:
    """Labels for texts. A `training.loop.task.Task`.

    Args:
        copies: altered training texts, in place of those in `train`.
        cache: where activations go that are too many for memory; None keeps none.
    """

    name = "classify"
    keep_best = True

    def __init__(
        self,
        tuning: Tuning,
        train: Rows,
        val: Rows,
        settings: LoopSettings,
        options: Options | None = None,
        *,
        copies: Copies | None = None,
        cache: Path | None = None,
    ) -> None:
        self.options = options or Options()
        self.trained = tuning.trained
        self.network = tuning.network
        if self.network.model.head is not None and not self.options.lm_weight:
            # The loss does not reach it: without a gradient DDP waits for one, and decay may pull.
            self.network.model.head.requires_grad_(False)
        self.train, self.val, self.copies = train, val, copies
        self.settings = settings
        self.padding = tuning.base.tokenizer.end_token
        self.device = settings.torch_device
        self.weights = None
        if self.options.class_weights == "balanced":
            self.weights = torch.tensor(class_weights(train), device=self.device)
        self.examples = len(train.tokens)
        self.lengths = [len(tokens) for tokens in train.tokens]
        self.tokens_per_example = padded_length(self.lengths, settings.batch_size, settings.seed)
        # Next tokens of a text on average: a constant, so that the loss is a sum over rows.
        self._next_tokens = max(1.0, sum(self.lengths) / len(self.lengths) - 1)
        self._train_states = self._val_states = None
        if cache is not None and self.options.cache_mb and tuning.method in ("head", "last-block"):
            # A copy is seen once: keeping what the network makes of it would save nothing.
            if copies is None:
                self._train_states = self._states_of(
                    tuning.method, train, cache / f"train-{distributed.rank()}.bin"
                )
            self._val_states = self._states_of(
                tuning.method, val, cache / f"val-{distributed.rank()}.bin"
            )

    def _states_of(self, method: str, rows: Rows, file: Path) -> FrozenStates:
        return FrozenStates(
            self.network,
            method,
            rows.tokens,
            self.padding,
            limit=self.options.cache_mb * 10**6,
            file=file,
            autocast=self.settings.autocast,
        )

    def order(self) -> Order | None:
        """In which a run sees the examples, where each epoch has other copies."""
        if self.copies is None:
            return None
        size = self.settings.batch_size
        return self.copies.order(
            ShuffledOrder(self.examples, self.settings.seed, self.lengths, size)
        )

    def batch(self, examples: Sequence[int]) -> Batch:
        if self.copies is None:
            return self._batch(self.train, examples, self._train_states)
        tokens = [self.copies.tokens(i) for i in examples]
        targets = [self.train.targets[i % self.examples] for i in examples]
        return self._batch(Rows(tuple(tokens), tuple(targets), 0), range(len(tokens)), None)

    def _batch(self, rows: Rows, examples: Sequence[int], states: FrozenStates | None) -> TextBatch:
        inputs, lengths = pad_rows([rows.tokens[i] for i in examples], self.padding, self.device)
        targets = torch.tensor([rows.targets[i] for i in examples], device=self.device)
        return TextBatch(
            inputs,
            targets,
            lengths,
            count=len(examples),
            states=None if states is None else states.batch(examples),
        )

    def loss(self, batch: Batch) -> Tensor:
        hidden = self._hidden(batch)
        logits = self._logits(hidden, batch)
        loss = F.cross_entropy(logits, batch.targets, self.weights, reduction="sum")
        if self.options.lm_weight:
            targets = batch.inputs[:, 1:].clone()  # (rows, time - 1)
            place = torch.arange(1, batch.inputs.shape[1], device=self.device)
            targets[place >= batch.lengths[:, None]] = IGNORE
            total, _ = token_loss(self.network.model, hidden[:, :-1], targets)
            loss = loss + self.options.lm_weight * total / self._next_tokens
        return loss

    def _hidden(self, batch: Batch) -> Tensor:
        """(rows, time, n_embd); or what the head reads, (rows, features), if that alone was kept"""
        states = batch.states if isinstance(batch, TextBatch) else None
        if states is None:
            return self.network.hidden(batch.inputs)
        return hidden_from(self.network, states)

    def _logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(rows, labels) fp32"""
        head = head_of(self.network)
        pooled = hidden if hidden.ndim == 2 else head.pool(hidden, batch.lengths)
        out: Tensor = head(pooled).float()
        return out

    def evaluate(self) -> dict[str, float]:
        """Loss, accuracy and F1 on rows spread evenly over the validation part, undecided rows
        going to the more probable label. Rows of like length are computed together."""
        size = self.settings.batch_size
        total = len(self.val.tokens)
        wanted = min(total, (self.settings.eval_batches or total) * size)
        chosen = [index * total // wanted for index in range(wanted)]
        chosen.sort(key=lambda index: len(self.val.tokens[index]))
        loss, decided, truth = 0.0, [], []
        for start in range(0, wanted, size):
            batch = self._batch(self.val, chosen[start : start + size], self._val_states)
            logits = self._logits(self._hidden(batch), batch)
            loss += F.cross_entropy(logits, batch.targets, reduction="sum").item()
            decided += logits.argmax(dim=-1).tolist()
            truth += batch.targets.tolist()
        labels = head_of(self.network).labels
        positive = None if labels.positive is None else labels.names.index(labels.positive)
        f1 = f1_score(
            truth,
            decided,
            labels=None if positive is None else [positive],
            average="macro",
            zero_division=0,
        )
        accuracy = sum(a == b for a, b in zip(decided, truth, strict=True)) / wanted
        return {"val_loss": loss / wanted, "val_accuracy": accuracy, "val_f1": float(f1)}

    def samples(self) -> list[str]:
        return []


def class_weights(rows: Rows) -> list[float]:
    """Weights by which each label's rows count the same together, and a row one on average."""
    counts = Counter(rows.targets)
    return [len(rows.targets) / (len(counts) * counts[label]) for label in sorted(counts)]
