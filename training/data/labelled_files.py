"""Files of labelled texts, row by row.

Three forms, told apart by the file name (`.xz` may follow):

    .jsonl   {"label": "spam", "text": "…"} in each line
    .csv     a header with `label` and `text`, quoting as spreadsheets do it
    others   label TAB text, without any quoting, as the UCI SMS Spam Collection has it; or columns
             in any order below a header that names them

The columns may have other names, which `--label-column` and `--text-column` give.
"""

import argparse
import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError, UsageError
from training.data.documents import read_text

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

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--label-column", help="column of labels (label)")
        parser.add_argument("--text-column", help="column of texts (text)")
        parser.add_argument(
            "--distinct",
            help="exact, or near: texts that differ only in digits and punctuation count once "
            "(exact)",
        )
        parser.add_argument(
            "--balance",
            help="none, or undersample: as many texts of each label as the rarest has, also in "
            "validation and test (none)",
        )

    @classmethod
    def from_args(
        cls, args: argparse.Namespace, card: Mapping[str, Any] | None = None
    ) -> "Reading":
        """What the flags say; where they say nothing, what the `card` of a checkpoint says of its
        training, so that the same files give the same parts again."""
        flags = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}
        given = {name: value for name, value in flags.items() if value is not None}
        trained = (card or {}).get("data", {}).get("reading", {})
        return cls(**{**trained, **given})


def read_labelled(path: Path, reading: Reading | None = None) -> Iterator[Example]:
    """All rows of one file, in its order; empty lines are no rows.

    Raises:
        DataError: see `load_labelled`.
    """
    for _, example in numbered_rows(path, reading):
        yield example


def numbered_rows(path: Path, reading: Reading | None = None) -> Iterator[tuple[int, Example]]:
    """As `read_labelled`, each row with the number of the line that it ends on.

    Raises:
        DataError: see `load_labelled`.
    """
    text = read_text(path).removeprefix("\ufeff")
    kind = Path(path.stem).suffix if path.suffix == ".xz" else path.suffix
    reader = {".csv": _csv_rows, ".jsonl": _json_rows}.get(kind.lower(), _tab_rows)
    for line, label, content in reader(text, path, reading or Reading()):
        if not label.strip():
            raise DataError(f"{path}: line {line} has no label")
        if not content.strip():
            raise DataError(f"{path}: line {line} has no text")
        yield line, Example(label.strip(), content)


Rows = Iterator[tuple[int, str, str]]
"""Line number, label, text."""


def _tab_rows(text: str, path: Path, reading: Reading) -> Rows:
    label_at, text_at = 0, 1
    # Not splitlines: it also cuts at characters that belong to a text, such as U+0085.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if number == 1:
            header = [cell.strip().lower() for cell in line.split("\t")]
            wanted = (reading.label_column.lower(), reading.text_column.lower())
            if set(wanted) <= set(header):
                label_at, text_at = header.index(wanted[0]), header.index(wanted[1])
                continue
            if wanted != ("label", "text"):
                raise DataError(_no_columns(path, line.split("\t"), reading))
        last = max(label_at, text_at)
        cells = line.split("\t", last if text_at == last else -1)
        if len(cells) <= last:
            raise DataError(f"{path}: line {number} has no tab between a label and a text")
        yield number, cells[label_at], cells[text_at]


def _csv_rows(text: str, path: Path, reading: Reading) -> Rows:
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)  # spreadsheets of some countries write semicolons
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        header = reader.fieldnames or []
        if not {reading.label_column, reading.text_column} <= set(header):
            raise DataError(_no_columns(path, header, reading))
        for row in reader:
            yield reader.line_num, row[reading.label_column] or "", row[reading.text_column] or ""
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error


def _no_columns(path: Path, header: Sequence[str], reading: Reading) -> str:
    return (
        f"{path}: line 1 is {list(header)}; it must name `{reading.label_column}` and "
        f"`{reading.text_column}` (--label-column and --text-column give other names)"
    )


def _json_rows(text: str, path: Path, reading: Reading) -> Rows:
    label, content = reading.label_column, reading.text_column
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: line {number} is not an object with `{label}` and `{content}`"
            )
        for name in (label, content):
            if not isinstance(row.get(name), str):
                raise DataError(f"{path}: line {number} has no {name} that is a string")
        yield number, row[label], row[content]
