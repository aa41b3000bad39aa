"""`penwright-train classify`: a classifier of texts, with any labels.

    penwright-train classify --base base --data SMSSpamCollection.tsv --out spam

The head reads the hidden state of the last real token. The loss is the mean cross-entropy over
rows. The best evaluation's weights are kept; temperature and threshold are then fitted to the
validation part, and the test part is measured once: as it is, and with as many texts of each label.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor

from model.classifier import Labels
from model.errors import UsageError
from training import finetune
from training.classification import Rows, calibrate, encode, head_of, measure, row_logits
from training.data.labelled import SPLIT_RULE, LabelledData, load_labelled
from training.finetune import Tuning, pad_rows, padded_length
from training.loop import Batch, Run
from training.report import plot_confusion, print_metrics
from training.settings import LoopSettings

METHODS = ("lora", "full", "last-block", "head")
CLASS_WEIGHTS = ("none", "balanced")


class Classification:
    """Labels for texts. A `training.loop.Task`."""

    name = "classify"
    keep_best = True

    def __init__(
        self,
        tuning: Tuning,
        train: Rows,
        val: Rows,
        settings: LoopSettings,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.trained = tuning.trained
        self.network = tuning.network
        self.train, self.val = train, val
        self.settings = settings
        self.padding = tuning.base.tokenizer.end_token
        self.device = settings.torch_device
        self.weights = (
            None if class_weights is None else torch.tensor(class_weights, device=self.device)
        )
        self.examples = len(train.tokens)
        self.lengths = [len(tokens) for tokens in train.tokens]
        lengths = [len(tokens) for tokens in train.tokens]
        self.tokens_per_example = padded_length(lengths, settings.batch_size)

    def batch(self, examples: Sequence[int]) -> Batch:
        return self._batch(self.train, examples)

    def _batch(self, rows: Rows, examples: Sequence[int]) -> Batch:
        inputs, lengths = pad_rows([rows.tokens[i] for i in examples], self.padding, self.device)
        targets = torch.tensor([rows.targets[i] for i in examples], device=self.device)
        return Batch(inputs, targets, lengths, count=len(examples))

    def loss(self, batch: Batch) -> Tensor:
        logits = self._logits(batch)
        return F.cross_entropy(logits, batch.targets, self.weights, reduction="sum")

    def _logits(self, batch: Batch) -> Tensor:
        """(rows, labels) fp32"""
        return row_logits(self.network, batch.inputs, batch.lengths)

    def evaluate(self) -> dict[str, float]:
        """Loss, accuracy and F1 on rows spread evenly over the validation part, undecided rows
        going to the more probable label."""
        size = self.settings.batch_size
        total = len(self.val.tokens)
        wanted = min(total, (self.settings.eval_batches or total) * size)
        chosen = [index * total // wanted for index in range(wanted)]
        loss, decided, truth = 0.0, [], []
        for start in range(0, wanted, size):
            batch = self._batch(self.val, chosen[start : start + size])
            logits = self._logits(batch)
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    finetune.add_arguments(parser, METHODS)
    parser.add_argument("--positive", help="of two labels, the one sought (default: the rarer)")
    parser.add_argument(
        "--class-weights", default="none", help="none, or balanced: rare labels count more (none)"
    )
    LoopSettings.add_arguments(
        parser, epochs=6.0, batch_size=16, lr=1e-3, warmup=20, eval_batches=0, weight_decay=0.01
    )


def run(args: argparse.Namespace) -> None:
    settings = LoopSettings.from_args(args)
    finetune.check_flags(args, METHODS, settings)
    if args.class_weights not in CLASS_WEIGHTS:
        raise UsageError(
            f"--class-weights is {args.class_weights!r}; it must be one of "
            f"{', '.join(CLASS_WEIGHTS)}"
        )
    lora = finetune.lora_settings(args, settings)
    data = load_labelled(args.data)
    labels = Labels(data.labels, _positive(args.positive, data))
    base = finetune.load_tunable(args.base)
    tuning = finetune.start_tuning(base, args.method, lora, labels, settings)
    parts = {
        name: encode(examples, labels.names, base.tokenizer, base.config.context_length)
        for name, examples in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    _report_data(data, parts)
    weights = _class_weights(parts["train"]) if args.class_weights == "balanced" else None
    task = Classification(tuning, parts["train"], parts["val"], settings, weights)
    directory = finetune.run_directory(args)
    progress = Run(task, settings, directory).train(
        resume=args.resume,
        describe={
            **finetune.identity(args, tuning, data.sources),
            "positive": labels.positive,
            "class_weights": args.class_weights,
        },
    )
    finetune.round_as_saved(tuning.trained)
    calibrate(tuning.network, parts["val"], task.padding)
    metrics = measure(tuning.network, parts["test"], task.padding)
    plot_confusion(metrics["test_natural"]["confusion"], directory / "confusion.png")
    card = {
        "task": "classify",
        **finetune.card_fields(args, tuning, settings, progress),
        "class_weights": args.class_weights,
        "data": _data_card(data, parts),
        "metrics": {"validation": {"loss": progress.best_loss}, **metrics},
    }
    checkpoint = finetune.publish(args.out, tuning, "classify", card)
    print_metrics(card["metrics"])
    print(f"{args.out}: {args.method} classifier {checkpoint.id[:12]}")


def _positive(wanted: str | None, data: LabelledData) -> str | None:
    """The positive label: the one asked for, or the rarer of two."""
    if len(data.labels) > 2:
        if wanted is not None:
            raise UsageError(f"--positive is for two labels; the data has {len(data.labels)}")
        return None
    if wanted is None:
        counts = Counter(example.label for example in data.train)
        return min(data.labels, key=lambda label: (counts[label], label))
    if wanted not in data.labels:
        raise UsageError(f"--positive is {wanted!r}; the labels are {', '.join(data.labels)}")
    return wanted


def _class_weights(rows: Rows) -> list[float]:
    """Weights by which each label's rows count the same together, and a row one on average."""
    counts = Counter(rows.targets)
    return [len(rows.targets) / (len(counts) * counts[label]) for label in sorted(counts)]


def _report_data(data: LabelledData, parts: dict[str, Rows]) -> None:
    print(
        f"{data.rows} rows, {data.duplicates} repeated and dropped "
        f"({data.conflicts} of them with another label); "
        + ", ".join(f"{len(rows.tokens)} {name}" for name, rows in parts.items())
    )
    cut = sum(rows.truncated for rows in parts.values())
    if cut:
        print(f"{cut} texts are longer than the context and cut at its end", file=sys.stderr)


def _data_card(data: LabelledData, parts: dict[str, Rows]) -> dict[str, Any]:
    return {
        "files": list(data.sources),
        "rows": data.rows,
        "duplicates": data.duplicates,
        "conflicting_duplicates": data.conflicts,
        "split": {"rule": SPLIT_RULE, "counts": data.counts()},
        "truncated": {name: rows.truncated for name, rows in parts.items()},
    }
