"""Labelled texts in three parts: de-duplicated, then split by label and hash.

A text's part depends on the texts of its label alone, whatever files they are in. Texts that differ
only in digits and punctuation stay in one part.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from model.errors import DataError
from training.data.documents import text_hash
from training.data.files import read_file
from training.data.given import NONE_GIVEN, File, Given, among
from training.data.labelled import Example, Reading, read_labelled
from training.data.splits import NOTHING, SAID, Part, Parts, near_hash

SPLIT_RULE = (
    "repeated texts (case and spacing aside) dropped; then by the SHA-256 of the text's words with "
    "all digits as 0, read as a fraction: below 0.7 training, below 0.8 validation, else test; "
    "where that leaves a label without a text in a part, the nearest one in that order moves there"
)

_VAL_FROM, _TEST_FROM = 0.7, 0.8


def split_rule(reading: Reading, given: Given = NONE_GIVEN) -> str:
    """How `load_labelled` splits, for cards."""
    rule = SPLIT_RULE + given.rule()
    if reading.distinct == "near":
        rule = "texts that differ only in digits and punctuation dropped; " + rule
    if reading.balance == "undersample":
        rule += (
            "; in each part, of each label only as many as the rarest has there, the first ones in "
            "that order"
        )
    return rule


_ALL: tuple[Part, ...] = ("train", "val", "test")


class Entry(NamedTuple):
    """A text on its way to a part."""

    group: str
    """The same for texts that must stay together; the first order."""
    identity: str
    """The second order."""
    example: Example
    parts: Collection[Part] = _ALL
    """To which it may come."""
    file: str = ""
    """Name of the one that it is from, the first if several have it."""

    @property
    def set_apart(self) -> bool:
        """Whether it is of a file that is not learnt."""
        return "train" not in self.parts


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
    unused: tuple[Example, ...] = ()
    """Of no part: near copies of what is set apart, and what is too long."""

    def without(self, leave_out: Callable[[Example], bool]) -> "Distinct":
        """The same, some texts of which are unused."""
        kept: dict[str, tuple[Entry, ...]] = {}
        unused = list(self.unused)
        for label, entries in self.entries.items():
            some: list[Entry] = []
            for entry in entries:
                if leave_out(entry.example):
                    unused.append(entry.example)
                else:
                    some.append(entry)
            if some:
                kept[label] = tuple(some)
        return replace(self, entries=kept, unused=tuple(unused))

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
            unused=(*self.unused, *(entry.example for entry in unused)),
            rows=self.rows,
            duplicates=self.duplicates,
            conflicts=self.conflicts,
            sources=self.sources,
            test_files=tuple(entry.file for entry in test),
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
    """Left out of all three, where the labels were balanced, or as `Distinct` says."""
    rows: int
    """Rows read."""
    duplicates: int
    """Rows dropped because their text came before."""
    conflicts: int
    """Those among them that came before with another label."""
    sources: tuple[dict[str, object], ...]
    """Name, SHA-256 and rows of each file."""
    test_files: tuple[str, ...]
    """Of each text in `test`, the name of its file."""

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


def load_labelled(
    paths: Sequence[Path], reading: Reading | None = None, given: Given = NONE_GIVEN
) -> LabelledData:
    """Read, de-duplicate and split.

    Raises:
        DataError: a file cannot be read, a row has no label or no text, or the labels are too few;
            names file and line.
    """
    return split(read_distinct(paths, reading, given))


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
        own = [entry for entry in entries if not entry.set_apart]
        first, second = _cuts(distinct, label, own)
        for number, entry in enumerate(own):
            part: Part = "train" if number < first else "val" if number < second else "test"
            wanted = among(entry.parts, part)
            parts[known.after(wanted, entry.example.text)].append(entry)
        for entry in entries:
            part = next(iter(entry.parts))
            if entry.set_apart and known.after(part, entry.example.text) == part:
                parts[part].append(entry)
    check_parts(distinct, parts)
    return distinct.as_data(**parts)


def _cuts(distinct: Distinct, label: str, entries: Sequence[Entry]) -> tuple[int, int]:
    """Where validation and test begin among a label's texts: between groups, as the hashes say,
    or as near to that as leaves no part empty. What is no part of theirs trains.

    Raises:
        DataError: the label has too few texts.
    """
    made = [name for name in ("val", "test") if any(name in entry.parts for entry in entries)]
    groups = [entry.group for entry in entries]
    borders = [at for at in range(1, len(groups)) if groups[at - 1] != groups[at]]
    if len(borders) < len(made) or not entries:
        count = len(borders) + 1 if entries else 0
        what = ["to train", *(f"to {verb}" for name, verb in _VERBS.items() if name in made)]
        raise DataError(
            f"{distinct.names}: label {label!r} has {count} distinct "
            f"text{'s' * (count != 1)} (digits and punctuation aside); it must have at least "
            f"{len(what)}: {', '.join(what[:-1])}{' and ' * bool(made)}{what[-1]}"
        )
    fractions = [int(group[:13], 16) / 16**13 for group in groups]
    val, test = (bisect_left(fractions, start) for start in (_VAL_FROM, _TEST_FROM))
    ends = borders if "test" in made else [*borders, len(groups)]
    second = min(
        ends[1 if "val" in made else 0 :], key=lambda at: abs(at - test), default=len(groups)
    )
    if "val" not in made:
        return second, second
    first = min((at for at in borders if at < second), key=lambda at: abs(at - val))
    return first, second


_VERBS = {"val": "validate", "test": "test"}


def check_parts(distinct: Distinct, parts: Mapping[str, Sequence[Entry]]) -> None:
    """
    Raises:
        DataError: a part has no text of some label, for `--base` has learnt them.
    """
    for name, entries in parts.items():
        missing = distinct.entries.keys() - {entry.example.label for entry in entries}
        if missing and any(entry.set_apart for entry in entries):
            continue  # it is as it was given
        if missing:
            raise DataError(
                f"{distinct.names}: --base was trained on all texts of {sorted(missing)[0]!r} that "
                f"the {SAID[name]} part would have; give texts that it has not learnt, or a base "
                "from before"
            )


def read_distinct(
    paths: Sequence[Path], reading: Reading | None = None, given: Given = NONE_GIVEN
) -> Distinct:
    """The distinct texts of `paths` in the order in which they are split.

    Args:
        given: files that are set apart. Texts of `paths` that differ from one of theirs only in
            digits and punctuation are unused.

    Raises:
        UsageError: a file is to test and to validate.
        DataError: a file cannot be read, a row has no label or no text, or what is set apart has a
            label that `paths` have not; names file and line.
    """
    reading = reading or Reading()
    identify = near_hash if reading.distinct == "near" else text_hash
    files = given.files(paths)
    texts: dict[str, tuple[Example, File]] = {}
    parts: dict[str, set[Part]] = {}
    sources: list[dict[str, object]] = []
    rows = conflicts = 0
    for file in files:
        content = read_file(file.path, reading.encoding)
        found = list(read_labelled(content, reading))
        sources.append({**content.source, "rows": len(found), **file.source()})
        rows += len(found)
        for row in found:
            identity = identify(row.text)
            first, of = texts.setdefault(identity, (row, file))
            conflicts += first.label != row.label
            if of is file or not of.set_apart:
                parts.setdefault(identity, set()).update(file.parts)
    by_label: dict[str, list[Entry]] = {}
    for identity, (example, file) in texts.items():
        group = near_hash(example.text)
        entry = Entry(group, identity, example, parts[identity], file.path.name)
        by_label.setdefault(example.label, []).append(entry)
    distinct = Distinct(
        entries={
            label: tuple(sorted(by_label[label], key=lambda entry: entry[:2]))
            for label in sorted(by_label)
        },
        balance=reading.balance,
        names=", ".join(str(file.path) for file in files),
        rows=rows,
        duplicates=rows - len(texts),
        conflicts=conflicts,
        sources=tuple(sources),
    )
    return _without_near_copies(distinct, files)


def _without_near_copies(distinct: Distinct, files: Sequence[File]) -> Distinct:
    """Without texts that would give away what is set apart.

    Raises:
        DataError: what is set apart has a label of its own.
    """
    apart = {e.group for entries in distinct.entries.values() for e in entries if e.set_apart}
    if not apart:
        return distinct
    for label, entries in distinct.entries.items():
        if all(entry.set_apart for entry in entries):
            learnt = [
                n for n, some in distinct.entries.items() if not all(e.set_apart for e in some)
            ]
            names = ", ".join(str(file.path) for file in files if file.set_apart)
            raise DataError(
                f"{names}: label {label!r} is unseen in --data, which has {', '.join(learnt)}"
            )
    near = {
        entry.example
        for entries in distinct.entries.values()
        for entry in entries
        if not entry.set_apart and entry.group in apart
    }
    return distinct.without(near.__contains__)


def between_groups(entries: Sequence[Entry], cut: int) -> int:
    """`cut`, moved on by at most a twentieth of all, to where one group ends and another begins."""
    for moved in range(cut, min(cut + len(entries) // 20 + 1, len(entries))):
        if entries[moved - 1].group != entries[moved].group:
            return moved
    return cut
