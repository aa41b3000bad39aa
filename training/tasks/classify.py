"""A classifier of texts, with any labels."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.checkpoint import Adapter, Base
from model.classifier import Labels
from model.errors import DataError, TextError, UsageError
from training.data.folds import ExtraTexts, check_folds
from training.data.given import NONE_GIVEN, Given
from training.data.labelled import Example, Reading
from training.data.labelled_parts import Distinct, read_distinct, split
from training.data.lengths import Lengths, TooLong, report_too_long
from training.data.splits import Parts
from training.loop import distributed
from training.loop import state as saved_state
from training.loop.settings import LoopSettings
from training.objectives.labels import Options
from training.tasks.classifier import Recipe
from training.tasks.cross_validation import cross_validate
from training.tasks.training import Job, train
from training.tuning.card import measured_beside
from training.tuning.methods import Method, head_has_bias, load_tunable
from training.tuning.publishing import keep_apart

METHODS = ("lora", "full", "last-block", "head")
DEFAULTS: Mapping[str, Any] = {
    "epochs": 6.0,
    "batch_size": 16,
    "lr": 1e-3,
    "warmup": 20,
    "eval_batches": 0,
    "weight_decay": 0.01,
    "warmup_gives_way": True,
}
"""Of the loop's settings."""


def classify(
    data: Sequence[Path],
    base: Path,
    job: Job,
    *,
    reading: Reading | None = None,
    options: Options | None = None,
    method: Method | None = None,
    settings: LoopSettings | None = None,
    extra: Sequence[Path] = (),
    positive: str | None = None,
    folds: int = 0,
    given: Given = NONE_GIVEN,
    lengths: Lengths | None = None,
    beside: Sequence[Path] = (),
) -> Base | Adapter | None:
    """Fine-tune a classifier and publish it.

    Args:
        extra: further files to train on, which never validate or test.
        positive: of two labels, the one sought; by default the rarer.
        folds: first measure by cross-validation with so many; 0 for none.
        given: files that are set apart to validate and to test.
        beside: classifiers that were trained in the same way, whose figures the card has, too.

    Returns:
        The checkpoint; None of a dry run.

    Raises:
        UsageError: a value is not allowed, or does not fit another.
        DataError: a file cannot be used.
    """
    settings, method = settings or LoopSettings(**DEFAULTS), method or Method()
    reading, options = reading or Reading(), options or Options()
    keep_apart(job.out, "--base", base)
    method.check(METHODS, settings)
    options.check(method.name)
    check_folds(folds)
    lengths = lengths or Lengths()
    if folds and given != NONE_GIVEN:
        raise UsageError(
            f"--folds is {folds}: each text of --data is tested in turn; leave out --val and --test"
        )
    if folds and distributed.size() > 1:
        raise UsageError(
            f"--folds is {folds}: that many trainings one after another, of which several "
            "processes can share but one; start it without torchrun"
        )
    with job.directory() as directory:
        if job.resume:
            _check_split(directory)
        distinct = read_distinct(data, reading, given)
        if distinct.unused:
            print(
                f"{len(distinct.unused)} texts of --data are left out: they differ from texts that "
                "are set apart only in digits and punctuation",
                file=sys.stderr,
            )
        labels = Labels(tuple(distinct.entries), positive_label(positive, distinct))
        further = ExtraTexts(extra, labels.names, reading)
        held = method.held(settings, directory if job.resume else None)
        loaded, known = load_tunable(base, held), Parts.known(base)
        short = _Short(loaded, lengths)
        distinct = distinct.without(short.leaves_out)
        further.leave_out(short.leaves_out)
        report_too_long(short.found, short.limit, "texts", cut=lengths.cut)
        if lost := set(labels.names) - distinct.entries.keys():
            raise DataError(
                f"{distinct.names}: no text of the label {sorted(lost)[0]!r} fits into "
                f"{short.limit:,} tokens (--max-length); --cut cuts them"
            )
        parts = split(distinct, known)
        recipe = Recipe(
            *(loaded, known, method, settings, options, reading, labels, further, given, lengths),
            held=held,
            head_bias=head_has_bias(loaded, directory if job.resume else None),
            beside=measured_beside(beside, labels),
        )
        training = recipe.prepare(parts, directory)
        training.report()
        if folds and not job.dry_run:
            training.folds = cross_validate(distinct, folds, recipe, directory, resume=job.resume)
            # Without a state of its own, the run before stopped in a fold.
            job = replace(job, resume=job.resume and saved_state.last_state(directory).exists())
        return train(training, settings, job, directory)


class _Short:
    """Finds texts that are longer than they may be."""

    def __init__(self, base: Base, lengths: Lengths) -> None:
        self.limit = lengths.limit(base.config.context_length)
        self.tokenizer, self.cut = base.tokenizer, lengths.cut
        self.found: list[TooLong] = []

    def leaves_out(self, example: Example) -> bool:
        # A token is a byte at least.
        if len(example.text.encode()) + len(self.tokenizer.prefix) <= self.limit:
            return False
        try:
            size = len(self.tokenizer.encode_prompt(example.text))
        except TextError:
            return False  # which is said where all texts are encoded
        if size > self.limit:
            self.found.append(TooLong(example.text, size))
        return size > self.limit and not self.cut


def positive_label(wanted: str | None, distinct: Distinct) -> str | None:
    """The label asked for, or the rarer of two; None where there is no rarer one.

    Raises:
        UsageError: there is no such label, or there are more than two.
    """
    labels = list(distinct.entries)
    if wanted is not None and len(labels) > 2:
        raise UsageError(f"--positive is for two labels; the data has {len(labels)}")
    if wanted is not None and wanted not in labels:
        raise UsageError(f"--positive is {wanted!r}; the labels are {', '.join(labels)}")
    if wanted is not None or len(labels) > 2:
        return wanted
    first, second = sorted(labels, key=lambda label: len(distinct.entries[label]))
    return None if len(distinct.entries[first]) == len(distinct.entries[second]) else first


def _check_split(directory: Path) -> None:
    """
    Raises:
        UsageError: the run in `directory` is of a version that split texts in another way.
    """
    state = saved_state.last_state(directory)
    if state.exists() and "parts" not in saved_state.load(directory)["identity"]:
        raise UsageError(
            f"--resume: {state} was saved by an earlier version, with which other texts trained "
            "and others were tested; start again without --resume"
        )
