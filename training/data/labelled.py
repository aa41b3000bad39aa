"""Labelled texts, as files have them.

They are records with `label` and `text`, in any form of `training.data.records`, or lines of both
with a tab between. The columns may have other names, which `--label-column` and `--text-column`
give. A label in JSON may be a whole number (`1.0`, too) or a boolean. A row whose label or text is
null is left out, and named.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import DataError, UsageError
from training.data.files import Source
from training.data.records import Record, Records, read_records, usable
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
        DataError: a file cannot be read, or a row has no label or no text; names file and line.
    """
    reading = reading or Reading()
    records = read_records(source, reading.columns, reading.encoding)
    for _, example in examples(records, reading):
        yield example


def examples(records: Records, reading: Reading) -> Iterator[tuple[Record, Example]]:
    """The labelled text of each record; names those that are left out.

    Raises:
        DataError: a file cannot be read, or a row has no label or no text; names file and line.
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
