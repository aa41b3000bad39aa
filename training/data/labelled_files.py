"""Files of labelled texts, row by row, in any form of `training.data.records`: records with `label`
and `text`, or lines of both with a tab between.

The columns may have other names, which `--label-column` and `--text-column` give. A label in JSON
may be a whole number or a boolean. A row whose label or text is null is left out, and named.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import DataError, UsageError
from training.data.files import Source
from training.data.records import LeftOut, Record, Records, read_records, usable
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
        training, so that the same files give the same parts again; but for the encoding, which is
        another file's own matter."""
        flags = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}
        given = {name: value for name, value in flags.items() if value is not None}
        trained = (card or {}).get("data", {}).get("reading", {})
        return cls(**{**trained, "encoding": None, **given})


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
        for name in (reading.label_column, reading.text_column):
            if name in record.fields and record.fields[name] is None:
                raise LeftOut(f"its {name} is null")
        label = record.string(reading.label_column, hint, numbers=True)
        text = record.string(reading.text_column, hint)
        for name, value in (("label", label), ("text", text)):
            if not value.strip():
                raise DataError(f"{record.where} has no {name}")
        yield Example(label.strip(), text)

    return usable(records, example)
