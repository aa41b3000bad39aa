"""Labelled texts: read whole, de-duplicated, then split by label and hash.

They are records with `label` and `text`, in any form of `training.data.records`, or lines of both
with a tab between. The columns may have other names, which `--label-column` and `--text-column`
give. A label in JSON may be a whole number (`1.0`, too) or a boolean. A row whose label or text is
null is left out, and named.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from model.errors import DataError, UsageError
from training.data.documents import text_hash
from training.data.files import Source, read_file
from training.data.records import Record, Records, read_records, usable
from training.data.splits import NOTHING, SAID, Part, Parts, near_hash
from training.data.tables import Columns

DISTINCT = ("exact", "near")

BALANCE = ("none", "undersample")


@dataclass(frozen=True)
class Example:
    """A text and its label."""

    label: str
    text: str


@dataclass(frozen=True)
class Reading:
    """How files become distinct labelled texts. Each field is a flag of the same name."""

    label_column: str = "label"
    """Where a file names its columns or fields, the one with the label."""
    text_column: str = "text"
    """The one with the text."""
    distinct: str = "exact"
    """`exact`: texts that are equal up to case and spacing count once. `near`: those too that
    differ only in digits and punctuation."""
    balance: str = "none"
    """`undersample`: as many texts of each label as the rarest has, in every part; the book's way.
    The first ones in the order of the split."""
    encoding: str | None = None
    """Of the files' text; None is UTF-8, or what a byte order mark says."""

    def __post_init__(self) -> None:
        for name, allowed in (("distinct", DISTINCT), ("balance", BALANCE)):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"--{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                )
        if self.label_column == self.text_column:
            raise UsageError(
                f"--label-column and --text-column are both {self.text_column!r}; "
                "they must name two columns"
            )

    @property
    def columns(self) -> Columns:
        """What to look for in a file."""
        names = (self.label_column, self.text_column)
        hint = " (--label-column and --text-column give other names)"
        return Columns(names, hint=hint, lines=names == ("label", "text"))


def read_labelled(source: Source, reading: Reading | None = None) -> Iterator[Example]:
    """All rows of one file, in its order; empty lines are no rows.

    Raises:
        DataError: see `load_labelled`.
    """
    reading = reading or Reading()
    records = read_records(source, reading.columns, reading.encoding)
    for _, example in examples(records, reading):
        yield example


def examples(records: Records, reading: Reading) -> Iterator[tuple[Record, Example]]:
    """The labelled text of each record; names those that are left out.

    Raises:
        DataError: see `load_labelled`.
    """

    hint = reading.columns.hint

    def example(record: Record) -> Iterator[Example]:
        record.check_present(reading.label_column, reading.text_column)
        label = record.string(reading.label_column, hint, numbers=True)
        text = record.string(reading.text_column, hint)
        for name, value in (("label", label), ("text", text)):
            if not value.strip():
                raise DataError(f"{record.where} has no {name}")
        yield Example(label.strip(), text)

    return usable(records, example)


SPLIT_RULE = (
    "repeated texts (case and spacing aside) dropped; then by the SHA-256 of the text's words with "
    "all digits as 0, read as a fraction: below 0.7 training, below 0.8 validation, else test; "
    "where that leaves a label without a text in a part, the nearest one in that order moves there"
)

_VAL_FROM, _TEST_FROM = 0.7, 0.8
_LEAST = 3  # one text of each label for each part


def split_rule(reading: Reading) -> str:
    """How `load_labelled` splits, for cards."""
    rule = SPLIT_RULE
    if reading.distinct == "near":
        rule = "texts that differ only in digits and punctuation dropped; " + rule
    if reading.balance == "undersample":
        rule += (
            "; in each part, of each label only as many as the rarest has there, the first ones in "
            "that order"
        )
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
    balance: str
    """Of the parts to be made: see `Reading`."""
    names: str
    """The files, for messages."""
    rows: int
    duplicates: int
    conflicts: int
    sources: tuple[dict[str, object], ...]

    def check_labels(self) -> None:
        """
        Raises:
            DataError: there is one label, which nothing can be told from.
        """
        if len(self.entries) < 2:
            only = next(iter(self.entries))
            raise DataError(f"{self.names}: the only label is {only!r}; there must be two")

    def as_data(self, train: list[Entry], val: list[Entry], test: list[Entry]) -> "LabelledData":
        """These texts in the parts that somebody has made, and balanced if they are to be."""
        unused: list[Entry] = []
        if self.balance == "undersample":
            train, val, test = (_undersampled(part, unused) for part in (train, val, test))
        return LabelledData(
            labels=tuple(self.entries),
            train=tuple(entry.example for entry in train),
            val=tuple(entry.example for entry in val),
            test=tuple(entry.example for entry in test),
            unused=tuple(entry.example for entry in unused),
            rows=self.rows,
            duplicates=self.duplicates,
            conflicts=self.conflicts,
            sources=self.sources,
        )


def _undersampled(part: list[Entry], unused: list[Entry]) -> list[Entry]:
    """As many of each label as the rarest has in the part, the first ones; the others are added to
    `unused`."""
    least = min(Counter(entry.example.label for entry in part).values())
    kept: Counter[str] = Counter()
    chosen: list[Entry] = []
    for entry in part:
        kept[entry.example.label] += 1
        (chosen if kept[entry.example.label] <= least else unused).append(entry)
    return chosen


@dataclass(frozen=True)
class LabelledData:
    """Distinct labelled texts in three parts, each in an order that depends on the texts alone."""

    labels: tuple[str, ...]
    """Sorted."""
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    unused: tuple[Example, ...]
    """Left out of all three, where the labels were balanced."""
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

    def parts(self, extra: Sequence[Example] = ()) -> Parts:
        """Which text is where; `extra` ones train, too."""
        parts = Parts()
        parts.add("train", (e.text for e in (*self.train, *extra)), near=True)
        parts.add("val", (e.text for e in self.val), near=True)
        parts.add("test", (e.text for e in self.test))
        parts.add("unused", (e.text for e in self.unused))
        return parts


def load_labelled(paths: Sequence[Path], reading: Reading | None = None) -> LabelledData:
    """Read, de-duplicate and split.

    Raises:
        DataError: a file cannot be read, a row has no label or no text, or the labels are too few;
            names file and line.
    """
    return split(read_distinct(paths, reading))


def split(distinct: Distinct, known: Parts = NOTHING) -> LabelledData:
    """In three parts, by `SPLIT_RULE`.

    Args:
        known: parts of the training that this one goes on from; what it learnt is not tested.

    Raises:
        DataError: a label has too few texts.
    """
    distinct.check_labels()
    parts: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    for label, entries in distinct.entries.items():
        first, second = _cuts(distinct, label)
        cuts: tuple[tuple[Part, int, int], ...] = (
            ("train", 0, first),
            ("val", first, second),
            ("test", second, len(entries)),
        )
        for part, start, end in cuts:
            for entry in entries[start:end]:
                parts[known.after(part, entry.example.text)].append(entry)
    check_parts(distinct, parts)
    return distinct.as_data(**parts)


def _cuts(distinct: Distinct, label: str) -> tuple[int, int]:
    """Where validation and test begin among a label's texts: between groups, as the hashes say,
    or as near to that as leaves no part empty.

    Raises:
        DataError: the label has too few texts.
    """
    entries = distinct.entries[label]
    groups = [entry.group for entry in entries]
    borders = [at for at in range(1, len(groups)) if groups[at - 1] != groups[at]]
    if len(borders) + 1 < _LEAST:
        raise DataError(
            f"{distinct.names}: label {label!r} has {len(borders) + 1} distinct "
            f"text{'s' * bool(borders)} (digits and punctuation aside); it must have at least "
            f"{_LEAST}: to train, to validate and to test"
        )
    fractions = [int(group[:13], 16) / 16**13 for group in groups]
    val, test = (bisect_left(fractions, start) for start in (_VAL_FROM, _TEST_FROM))
    second = min(borders[1:], key=lambda at: abs(at - test))
    first = min((at for at in borders if at < second), key=lambda at: abs(at - val))
    return first, second


def check_parts(distinct: Distinct, parts: Mapping[str, Sequence[Entry]]) -> None:
    """
    Raises:
        DataError: a part has no text of some label, for `--base` has learnt them.
    """
    for name, entries in parts.items():
        missing = distinct.entries.keys() - {entry.example.label for entry in entries}
        if missing:
            raise DataError(
                f"{distinct.names}: --base was trained on all texts of {sorted(missing)[0]!r} that "
                f"the {SAID[name]} part would have; give texts that it has not learnt, or a base "
                "from before"
            )


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
    return Distinct(
        entries={
            label: tuple(sorted(by_label[label], key=lambda entry: entry[:2]))
            for label in sorted(by_label)
        },
        balance=reading.balance,
        names=names,
        rows=len(rows),
        duplicates=len(rows) - len(distinct),
        conflicts=conflicts,
        sources=tuple(sources),
    )


def between_groups(entries: Sequence[Entry], cut: int) -> int:
    """`cut`, moved on by at most a twentieth of all, to where one group ends and another begins."""
    for moved in range(cut, min(cut + len(entries) // 20 + 1, len(entries))):
        if entries[moved - 1].group != entries[moved].group:
            return moved
    return cut
