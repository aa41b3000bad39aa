"""Labelled texts: read whole, de-duplicated, then split by label and hash."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from model.errors import DataError
from training.data.documents import text_hash
from training.data.files import read_file
from training.data.labelled_files import Example, Reading, read_labelled

SPLIT_RULE = (
    "repeated texts (case and spacing aside) dropped; then within each label, in the order of the "
    "SHA-256 of the text's words with all digits as 0, the first 70% train, the next 10% validate, "
    "the rest test; texts that are equal by that order stay in one part, unless they are more than "
    "a twentieth of the label"
)

_TEST, _VAL = 0.2, 0.1
_LEAST = 3  # one text of each label for each part


def split_rule(reading: Reading) -> str:
    """How `load_labelled` splits, for cards."""
    rule = SPLIT_RULE
    if reading.distinct == "near":
        rule = "texts that differ only in digits and punctuation dropped; " + rule
    if reading.balance == "undersample":
        rule += "; of each label only as many as the rarest has, the first ones in that order"
    return rule


class Entry(NamedTuple):
    """A text on its way to a part."""

    group: str
    """The same for texts that must stay together; the first order."""
    identity: str
    """The second order."""
    example: Example


@dataclass(frozen=True)
class Distinct:
    """The distinct texts of some files, before they are split."""

    entries: Mapping[str, tuple[Entry, ...]]
    """Of each label, in an order that depends on the texts alone; labels sorted."""
    names: str
    """The files, for messages."""
    rows: int
    duplicates: int
    conflicts: int
    sources: tuple[dict[str, object], ...]

    def as_data(self, train: list[Entry], val: list[Entry], test: list[Entry]) -> "LabelledData":
        """These texts in the parts that somebody has made."""
        return LabelledData(
            labels=tuple(self.entries),
            train=tuple(entry.example for entry in train),
            val=tuple(entry.example for entry in val),
            test=tuple(entry.example for entry in test),
            rows=self.rows,
            duplicates=self.duplicates,
            conflicts=self.conflicts,
            sources=self.sources,
        )


@dataclass(frozen=True)
class LabelledData:
    """Distinct labelled texts in three parts, each in an order that depends on the texts alone."""

    labels: tuple[str, ...]
    """Sorted."""
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    rows: int
    """Rows read."""
    duplicates: int
    """Rows dropped because their text came before."""
    conflicts: int
    """Those among them that came before with another label."""
    sources: tuple[dict[str, object], ...]
    """Name, SHA-256 and rows of each file."""

    def counts(self) -> dict[str, dict[str, int]]:
        """How many texts of each label each part has."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: dict(Counter(e.label for e in part)) for name, part in parts.items()}


def load_labelled(paths: Sequence[Path], reading: Reading | None = None) -> LabelledData:
    """Read, de-duplicate and split.

    Raises:
        DataError: a file cannot be read, a row has no label or no text, or the labels are too few;
            names file and line.
    """
    return split(read_distinct(paths, reading))


def split(distinct: Distinct) -> LabelledData:
    """In three parts, by `SPLIT_RULE`.

    Raises:
        DataError: a label has too few texts.
    """
    train: list[Entry] = []
    val: list[Entry] = []
    test: list[Entry] = []
    for label, entries in distinct.entries.items():
        count = len(entries)
        if count < _LEAST:
            raise DataError(
                f"{distinct.names}: label {label!r} has {count} distinct text{'s' * (count > 1)}; "
                f"it must have at least {_LEAST}: to train, to validate and to test"
            )
        tests, vals = max(1, round(count * _TEST)), max(1, round(count * _VAL))
        first = between_groups(entries, count - tests - vals)
        second = between_groups(entries, count - tests)
        train += entries[:first]
        val += entries[first:second]
        test += entries[second:]
    return distinct.as_data(train, val, test)


def read_distinct(paths: Sequence[Path], reading: Reading | None = None) -> Distinct:
    """The distinct texts of `paths` in the order in which they are split.

    Raises:
        DataError: see `load_labelled`.
    """
    reading = reading or Reading()
    rows: list[Example] = []
    sources: list[dict[str, object]] = []
    for path in paths:
        file = read_file(path, reading.encoding)
        found = list(read_labelled(file, reading))
        rows += found
        sources.append({**file.source, "rows": len(found)})
    names = ", ".join(str(path) for path in paths)
    identify = near_hash if reading.distinct == "near" else text_hash
    distinct: dict[str, Example] = {}
    conflicts = 0
    for row in rows:
        first = distinct.setdefault(identify(row.text), row)
        conflicts += first.label != row.label
    by_label: dict[str, list[Entry]] = {}
    for identity, example in distinct.items():
        entry = Entry(near_hash(example.text), identity, example)
        by_label.setdefault(example.label, []).append(entry)
    if len(by_label) < 2:
        raise DataError(f"{names}: the only label is {next(iter(by_label))!r}; there must be two")
    least = min(map(len, by_label.values())) if reading.balance == "undersample" else None
    entries = {
        label: tuple(sorted(by_label[label], key=lambda entry: entry[:2])[:least])
        for label in sorted(by_label)
    }
    return Distinct(entries, names, len(rows), len(rows) - len(distinct), conflicts, tuple(sources))


def near_hash(text: str) -> str:
    """What texts share that differ only in digits and punctuation, such as a chain letter sent with
    different numbers: one of them in training would give away the other in the test."""
    words = re.sub(r"\d", "0", " ".join(re.findall(r"\w+", text.lower())))
    return text_hash(words or text)


def between_groups(entries: Sequence[Entry], cut: int) -> int:
    """`cut`, moved on by at most a twentieth of all, to where one group ends and another begins."""
    for moved in range(cut, min(cut + len(entries) // 20 + 1, len(entries))):
        if entries[moved - 1].group != entries[moved].group:
            return moved
    return cut
