"""Tables as rows: a header, and as many cells in each row as it has columns.

Empty cells at the end, and columns at the end without a name, are what spreadsheets leave there; a
row that fills such a column is left out, for its text was cut.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from model.errors import DataError
from training.data.documents import normalise
from training.data.files import File


@dataclass(frozen=True)
class Columns:
    """What a reader looks for."""

    names: tuple[str, ...]
    """Columns of a table that must be there."""
    fields: str = ""
    """What a record has, for messages; by default, those."""
    hint: str = ""
    """How other names are given, for messages."""
    lines: bool = False
    """Whether lines without a header are rows: a tab between the columns, no quoting, and in the
    last one whatever follows, as the UCI SMS Spam Collection has it."""
    optional: tuple[str, ...] = ()
    """Columns and fields that mean something where they are there."""

    @property
    def listed(self) -> str:
        return self.fields or " and ".join(f"`{name}`" for name in self.names)

    @cached_property
    def _known(self) -> dict[str, str]:
        """What is looked for, by its spellings; names that differ in case alone, by themselves."""
        looked_for = (*self.names, *self.optional)
        return {normalise(name): name for name in looked_for} | {name: name for name in looked_for}

    def known(self, name: str) -> str | None:
        """The name by which a column or field is looked for, whatever its case and spacing."""
        return self._known.get(name) or self._known.get(normalise(name))

    def renamed(self, names: Sequence[str], where: str) -> list[str]:
        """Names of columns or fields, with those that are looked for as they are looked for.

        Args:
            where: they stand, for messages.

        Raises:
            DataError: two are the same one.
        """
        result = [self.known(name) or name for name in names]
        if len(set(result)) == len(result):
            return result
        for name in (*self.names, *self.optional):
            if (count := result.count(name)) > 1:
                raise DataError(f"{where} names `{name}` {count} times: {list(names)}")
        return result


class TableRow(NamedTuple):
    """One row."""

    number: int
    """Where it begins, from 1."""
    fields: Mapping[str, Any]
    piece: str = ""
    """As it stands in the file."""
    fault: str = ""
    """Why it is left out, if it is."""


@dataclass(frozen=True)
class Table:
    """All rows of a file."""

    rows: tuple[TableRow, ...]
    prefix: str = ""
    """What stands before them."""
    noun: str = "line"


class Header:
    """The columns of a table."""

    def __init__(self, file: File, cells: Sequence[str], columns: Columns, number: int = 1) -> None:
        """
        Args:
            number: of its line, from 1.

        Raises:
            DataError: a column that is looked for is not there, or twice.
        """
        if not has_all(cells, columns):
            raise DataError(_no_columns(file, cells, columns, number))
        self.path = file.path
        self.all = len(cells)
        """Columns, with those at the end that have no name."""
        self.spaced = len(cells) > 1 and all(cell.startswith(" ") for cell in cells[1:])
        """Whether a blank follows each separator, and belongs to it."""
        names = [cell.strip() for cell in cells]
        self.names = columns.renamed(names, f"{file.path}: line {number}")
        while self.names and not self.names[-1]:
            self.names.pop()

    def row(self, number: int, cells: Sequence[str], piece: str = "") -> Iterator[TableRow]:
        """A row, unless all its cells are empty.

        Raises:
            DataError: it has not as many cells as there are columns.
        """
        if not any(cell.strip() for cell in cells):
            return
        count, width = len(cells), len(self.names)
        while count > width and not cells[count - 1].strip():
            count -= 1
        if not width <= count <= self.all:
            names = ", no ".join(self.names[count:width])
            missing = f" no {names}: it has" if names else ""
            hint = "" if missing else "; a text that holds the separator must stand in quotes"
            raise DataError(
                f"{self.path}: line {number} has{missing} {_cells(count)}, and the header "
                f"{_cells(width)}{hint}"
            )
        fields: dict[str, Any] = {}
        for name, cell in zip(self.names, cells, strict=False):
            fields.setdefault(name, cell)
        fault = "it has a cell in a column without a name" if count > width else ""
        yield TableRow(number, fields, piece, fault)


def has_all(cells: Sequence[str], columns: Columns) -> bool:
    """Whether it is a header that names all the columns."""
    return {columns.known(cell) for cell in cells}.issuperset(columns.names)


def _no_columns(file: File, header: Sequence[str], columns: Columns, number: int) -> str:
    if file.form not in (".csv", ".xlsx") and not columns.hint:
        return f"{file.path}: not valid JSON, nor a table with {columns.listed}"
    names = " and ".join(f"`{name}`" for name in columns.names)
    return f"{file.path}: line {number} is {list(header)}; it must name {names}{columns.hint}"


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"
