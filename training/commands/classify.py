"""`penwright-train classify`: a classifier of texts, with any labels.

    penwright-train classify --base base --data SMSSpamCollection.tsv --out spam
    penwright-train classify --base base --data tickets.csv --out tickets \\
        --label-column team --text-column message --folds 5 --augment all

The head reads the hidden state of the last real token. The loss is the mean cross-entropy over
rows. The best evaluation's weights are kept; temperature and threshold are then fitted to the
validation part, and the test part is measured once: as it is, and with as many texts of each label.

`--folds K` first trains K classifiers in the same way, each tested on another K-th of the texts,
and compares them with n-grams under a linear SVM. `--extra` names files that are only trained on.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.classifier import Labels
from model.errors import UsageError
from training.data.folds import ExtraTexts, check_folds
from training.data.labelled import Distinct, LabelledData, read_distinct, split, split_rule
from training.data.labelled_files import Reading
from training.loop import distributed, state
from training.loop.dry_run import dry_run, leaves_nothing
from training.loop.settings import LoopSettings
from training.measure.classifiers import accuracy, measure
from training.measure.cross_validation import cross_validate
from training.objectives.labels import Options
from training.report.tables import plot_confusion, print_metrics
from training.tuning import methods as finetune
from training.tuning.classifier import Prepared, Trainer

METHODS = ("lora", "full", "last-block", "head")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    finetune.add_arguments(parser, METHODS)
    Reading.add_arguments(parser)
    parser.add_argument(
        "--extra",
        nargs="+",
        type=Path,
        default=[],
        help="further files to train on, which never validate or test; what is like a text of "
        "--data is left out",
    )
    parser.add_argument("--positive", help="of two labels, the one sought (default: the rarer)")
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        help="first measure by cross-validation with so many folds, from 2 to 10; 0: do not (0)",
    )
    Options.add_arguments(parser)
    LoopSettings.add_arguments(
        parser, epochs=6.0, batch_size=16, lr=1e-3, warmup=20, eval_batches=0, weight_decay=0.01
    )


@leaves_nothing
def run(args: argparse.Namespace) -> None:
    settings = LoopSettings.from_args(args)
    finetune.check_flags(args, METHODS, settings)
    check_folds(args.folds)
    if args.folds and distributed.size() > 1:
        raise UsageError(
            f"--folds is {args.folds}: that many trainings one after another, of which several "
            "processes can share but one; start it without torchrun"
        )
    options = Options.from_args(args)
    reading = Reading.from_args(args)
    lora = finetune.lora_settings(args, settings)
    distinct = read_distinct(args.data, reading)
    data = split(distinct)
    labels = Labels(data.labels, _positive(args.positive, distinct))
    extra = ExtraTexts(args.extra, data.labels, reading)
    base = finetune.load_tunable(args.base)
    trainer = Trainer(args, settings, options, lora, base, labels, extra)
    directory = finetune.run_directory(args)
    prepared = trainer.prepare(data, directory)
    _report_data(data, prepared)
    if args.dry_run:
        dry_run(prepared.run, prepared.tuning.network.model)
        return
    resume, folds = args.resume, None
    if args.folds:
        folds = cross_validate(
            distinct, args.folds, labels, trainer.prepare, directory, resume=resume
        )
        resume = resume and state.last_state(directory).exists()  # or it stopped in a fold
    progress = prepared.train(resume=resume)
    metrics = _metrics(prepared)
    metrics["validation"]["loss"] = progress.best_loss
    if folds:
        metrics["cross_validation"] = folds
    plot_confusion(metrics["test_natural"]["confusion"], directory / "confusion.png")
    card = {
        "task": "classify",
        **finetune.card_fields(args, prepared.tuning, settings, progress),
        **trainer.settings_card(),
        "data": _data_card(data, prepared, trainer, reading),
        "metrics": metrics,
    }
    checkpoint = finetune.publish(args.out, prepared.tuning, "classify", card)
    print_metrics(card["metrics"])
    print(f"{args.out}: {args.method} classifier {checkpoint.id[:12]}")


def _positive(wanted: str | None, distinct: Distinct) -> str | None:
    """The positive label: the one asked for, or the rarer of two."""
    labels = list(distinct.entries)
    if len(labels) > 2:
        if wanted is not None:
            raise UsageError(f"--positive is for two labels; the data has {len(labels)}")
        return None
    if wanted is None:
        return min(labels, key=lambda label: (len(distinct.entries[label]), label))
    if wanted not in labels:
        raise UsageError(f"--positive is {wanted!r}; the labels are {', '.join(labels)}")
    return wanted


def _metrics(prepared: Prepared) -> dict[str, Any]:
    """Of each part: all there is to know of the test part, and how well the others are fitted."""
    network, parts, padding = prepared.tuning.network, prepared.parts, prepared.task.padding
    return {
        "train": {"accuracy": accuracy(network, parts["train"], padding)},
        "validation": {"accuracy": accuracy(network, parts["val"], padding)},
        **measure(network, parts["test"], padding),
    }


def _report_data(data: LabelledData, prepared: Prepared) -> None:
    print(
        f"{data.rows} rows, {data.duplicates} repeated and dropped "
        f"({data.conflicts} of them with another label); "
        + ", ".join(f"{len(rows.tokens)} {name}" for name, rows in prepared.parts.items())
    )
    if prepared.extra:
        print(f"{prepared.extra} of the training texts are extra ones")
    if prepared.task.copies is not None and prepared.tuning.method in ("head", "last-block"):
        print("altered copies differ in every epoch, so none of their activations are kept")


def _data_card(
    data: LabelledData, prepared: Prepared, trainer: Trainer, reading: Reading
) -> dict[str, Any]:
    return {
        "files": list(data.sources),
        "extra": {"files": trainer.extra.sources, "texts": prepared.extra},
        "reading": asdict(reading),
        "rows": data.rows,
        "duplicates": data.duplicates,
        "conflicting_duplicates": data.conflicts,
        "split": {"rule": split_rule(reading), "counts": data.counts()},
        "truncated": {name: rows.truncated for name, rows in prepared.parts.items()},
    }
