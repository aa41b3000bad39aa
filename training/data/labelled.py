"""Labelled texts: read whole, de-duplicated, then split by label and hash.

Three forms, told apart by the file name (`.xz` may follow):

    .jsonl   {"label": "spam", "text": "…"} in each line
    .csv     a header with `label` and `text`, quoting as spreadsheets do it
    others   label TAB text, without any quoting, as the UCI SMS Spam Collection has it
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError
from training.data.text import file_sha256, read_text, text_hash

SPLIT_RULE = (
    "repeated texts (case and spacing aside) dropped; then within each label, in the order of the "
    "SHA-256 of the text's words with all digits as 0, the first 70% train, the next 10% validate, "
    "the rest test; texts that are equal by that order stay in one part, unless they are more than "
    "a twentieth of the label"
)

_TEST, _VAL = 0.2, 0.1
_LEAST = 3  # one text of each label for each part


@dataclass(frozen=True)
class Example:
    """A text and its label."""

    label: str
    text: str


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


def load_labelled(paths: Sequence[Path]) -> LabelledData:
    """Read, de-duplicate and split.

    Raises:
        DataError: a file cannot be read, a row has no label or no text, or the labels are too few;
            names file and line.
    """
    rows: list[Example] = []
    sources: list[dict[str, object]] = []
    for path in paths:
        found = list(read_labelled(path))
        rows += found
        sources.append({"file": path.name, "sha256": file_sha256(path), "rows": len(found)})
    names = ", ".join(str(path) for path in paths)
    distinct: dict[str, Example] = {}
    conflicts = 0
    for row in rows:
        first = distinct.setdefault(text_hash(row.text), row)
        conflicts += first.label != row.label
    parts = _split(distinct, names)
    return LabelledData(
        labels=tuple(sorted({row.label for row in distinct.values()})),
        train=parts[0],
        val=parts[1],
        test=parts[2],
        rows=len(rows),
        duplicates=len(rows) - len(distinct),
        conflicts=conflicts,
        sources=tuple(sources),
    )


def _split(distinct: dict[str, Example], source: str) -> tuple[tuple[Example, ...], ...]:
    """Training, validation and test part of the texts, which are given by their hash."""
    by_label: dict[str, list[tuple[str, str, Example]]] = {}
    for identity, example in distinct.items():
        entry = (_near_hash(example.text), identity, example)
        by_label.setdefault(example.label, []).append(entry)
    if len(by_label) < 2:
        raise DataError(f"{source}: the only label is {next(iter(by_label))!r}; there must be two")
    train, val, test = [], [], []
    for label, entries in sorted(by_label.items()):
        count = len(entries)
        if count < _LEAST:
            raise DataError(
                f"{source}: label {label!r} has {count} distinct text{'s' * (count > 1)}; "
                f"it must have at least {_LEAST}: to train, to validate and to test"
            )
        entries.sort(key=lambda entry: entry[:2])
        groups = [entry[0] for entry in entries]
        examples = [entry[2] for entry in entries]
        tests, vals = max(1, round(count * _TEST)), max(1, round(count * _VAL))
        first = _between_groups(groups, count - tests - vals)
        second = _between_groups(groups, count - tests)
        train += examples[:first]
        val += examples[first:second]
        test += examples[second:]
    return tuple(train), tuple(val), tuple(test)


def _near_hash(text: str) -> str:
    """What texts share that differ only in digits and punctuation, such as a chain letter sent with
    different numbers: one of them in training would give away the other in the test."""
    words = re.sub(r"\d", "0", " ".join(re.findall(r"\w+", text.lower())))
    return text_hash(words or text)


def _between_groups(groups: Sequence[str], cut: int) -> int:
    """`cut`, moved on by at most a twentieth of all, to where one group ends and another begins."""
    for moved in range(cut, min(cut + len(groups) // 20 + 1, len(groups))):
        if groups[moved - 1] != groups[moved]:
            return moved
    return cut


def read_labelled(path: Path) -> Iterator[Example]:
    """All rows of one file, in its order; empty lines are no rows.

    Raises:
        DataError: see `load_labelled`.
    """
    text = read_text(path).removeprefix("\ufeff")
    kind = Path(path.stem).suffix if path.suffix == ".xz" else path.suffix
    reader = {".csv": _csv_rows, ".jsonl": _json_rows}.get(kind.lower(), _tab_rows)
    for line, label, content in reader(text, path):
        if not label.strip():
            raise DataError(f"{path}: line {line} has no label")
        if not content.strip():
            raise DataError(f"{path}: line {line} has no text")
        yield Example(label.strip(), content)


Rows = Iterator[tuple[int, str, str]]
"""Line number, label, text."""


def _tab_rows(text: str, path: Path) -> Rows:
    # Not splitlines: it also cuts at characters that belong to a text, such as U+0085.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        label, tab, content = line.partition("\t")
        if not tab:
            raise DataError(f"{path}: line {number} has no tab between a label and a text")
        if number > 1 or (label.lower(), content.lower()) != ("label", "text"):
            yield number, label, content


def _csv_rows(text: str, path: Path) -> Rows:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = reader.fieldnames or []
        if not {"label", "text"} <= set(header):
            raise DataError(f"{path}: line 1 is {list(header)}; it must name `label` and `text`")
        for row in reader:
            yield reader.line_num, row["label"] or "", row["text"] or ""
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error


def _json_rows(text: str, path: Path) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not an object with `label` and `text`")
        for name in ("label", "text"):
            if not isinstance(row.get(name), str):
                raise DataError(f"{path}: line {number} has no {name} that is a string")
        yield number, row["label"], row["text"]
