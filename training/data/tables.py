"""Tables: CSV, TSV, lines of a label and a text, parquet and spreadsheets, row by row.

Separated values are read as strictly as they can be: a row has as many cells as the header, and
quotes are whole, for a reader that forgives cuts texts and swallows rows. Empty cells at the end,
and columns at the end without a name, are what spreadsheets leave there; a row that fills such a
column is left out, for its text was cut.
"""

import csv
import importlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import DataError
from training.data.files import File

_SEPARATORS = ",;\t"  # spreadsheets of some countries write semicolons
_EXCEL = re.compile(r'"?sep=(.)"?[ \t]*\r?\n', re.IGNORECASE)
_CELL = re.compile(r'(?<![^\t\n\r])"((?:[^"]|"")*+)"(?![^\t\n\r])')
"""A quoted cell between tabs."""
_HEADER_LINES = 10  # at most: a name may have a line end in it


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

    @property
    def listed(self) -> str:
        return self.fields or " and ".join(f"`{name}`" for name in self.names)


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


def read_table(file: File, columns: Columns) -> Table:
    """The rows of a file that is no JSON.

    Raises:
        DataError: a row is malformed, or the columns are not there; names file and line.
    """
    if file.form == ".parquet":
        return _parquet(file, columns)
    if file.form == ".xlsx":
        return _spreadsheet(file, columns)
    said = _EXCEL.match(file.text)
    skipped = said.group() if said else ""
    lines = io.StringIO(file.text[len(skipped) :], newline="").readlines()
    first = lines[0] if lines else ""
    separators = [said.group(1)] if said else sorted(_SEPARATORS, key=first.count, reverse=True)
    if file.form != ".csv" and "\t" in first:
        separators = ["\t"]  # its commas belong to a text
    cells = {separator: _first_row(lines, separator) for separator in separators}
    fitting = [separator for separator in separators if _names(cells[separator], columns)]
    separator = next(iter(fitting), separators[0])
    if not fitting and file.form != ".csv" and columns.lines:
        return _plain(file, columns)
    if not fitting:
        raise DataError(_no_columns(file, cells[separator], columns))
    header = _Header(file.path, cells[separator], columns)
    plain = file.form != ".csv" and separator == "\t" and not skipped
    if plain and not _is_quoted(lines, header):
        return _tabbed(file, header, columns.names[-1])
    rows = _quoted(lines, separator, header, skipped.count("\n"))
    prefix = skipped + "".join(lines[: next(_csv_rows(lines, separator, header)).end])
    return Table(tuple(rows), prefix)


class _Header:
    """The columns of a table."""

    def __init__(self, path: Path, cells: Sequence[str], columns: Columns) -> None:
        """
        Raises:
            DataError: two columns have a name that is looked for.
        """
        self.path = path
        self.all = len(cells)
        self.spaced = len(cells) > 1 and all(cell.startswith(" ") for cell in cells[1:])
        """Whether a blank follows each separator, and belongs to it."""
        self.names = [cell.strip() for cell in cells]
        for name in columns.names:
            found = _places(cells, name)
            if len(found) > 1:
                raise DataError(f"{path}: line 1 names `{name}` {len(found)} times: {list(cells)}")
            for place in found:
                self.names[place] = name
        while self.names and not self.names[-1]:
            self.names.pop()

    def row(self, number: int, cells: Sequence[str], piece: str = "") -> Iterator[TableRow]:
        """A row, unless all its cells are empty.

        Raises:
            DataError: it has not as many cells as there are columns.
        """
        if not any(cell.strip() for cell in cells):
            return
        where, count = f"{self.path}: line {number}", len(self.names)
        if len(cells) < count:
            missing = ", no ".join(self.names[len(cells) :])
            raise DataError(
                f"{where} has no {missing}: it has {_cells(len(cells))}, and the header "
                f"{_cells(count)}"
            )
        beyond = [place for place, cell in enumerate(cells) if place >= count and cell.strip()]
        if beyond and beyond[-1] >= self.all:
            raise DataError(
                f"{where} has {_cells(beyond[-1] + 1)}, and the header {_cells(count)}; a text "
                "that holds the separator must stand in quotes"
            )
        fields: dict[str, Any] = {}
        for name, cell in zip(self.names, cells, strict=False):
            fields.setdefault(name, cell)
        fault = "it has a cell in a column without a name" if beyond else ""
        yield TableRow(number, fields, piece, fault)


class _CsvRow(NamedTuple):
    """Cells, and the lines that they stand in: from `start`, from 0, to before `end`."""

    start: int
    end: int
    cells: list[str]


def _quoted(
    lines: Sequence[str], separator: str, header: _Header, offset: int
) -> Iterator[TableRow]:
    rows = _csv_rows(lines, separator, header, offset)
    next(rows)
    for start, end, cells in rows:
        piece = "".join(lines[start:end])
        if not piece.endswith(("\n", "\r")):
            piece += "\n"
        yield from header.row(start + 1 + offset, cells, piece)


def _csv_rows(
    lines: Sequence[str], separator: str, header: _Header, offset: int = 0
) -> Iterator[_CsvRow]:
    """All rows, with the header.

    Raises:
        DataError: the quotes of one are not whole; names the line that it begins on.
    """
    csv.field_size_limit(max(csv.field_size_limit(), sum(map(len, lines)) + 1))
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=header.spaced)
    while True:
        start = reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{header.path}: line {start + 1 + offset}: {error}; a cell in quotes must end "
                "with one, and a quote within it must be doubled"
            ) from error
        if cells is None:
            return
        yield _CsvRow(start, reader.line_num, cells)


def _tabbed(file: File, header: _Header, last: str) -> Table:
    """Columns between tabs, below a header, without quoting. If `last` is the last column, it has
    all that follows."""
    most = len(header.names) - 1 if header.names[-1] == last else -1
    lines = file.lines
    rows: list[TableRow] = []
    for number, line in enumerate(lines[1:], start=2):
        rows += header.row(number, line.rstrip("\r\n").split("\t", most), line)
    return Table(tuple(rows), prefix=lines[0])


def _plain(file: File, columns: Columns) -> Table:
    """Lines without a header."""
    rows = []
    for number, line in enumerate(file.lines, start=1):
        content = line.rstrip("\n").removesuffix("\r")
        if not content.strip():
            continue
        cells = content.split("\t", len(columns.names) - 1)
        if len(cells) < len(columns.names):
            names = " and a ".join(columns.names)
            raise DataError(f"{file.path}: line {number} has no tab between a {names}")
        rows.append(TableRow(number, dict(zip(columns.names, cells, strict=True)), line))
    return Table(tuple(rows))


def _is_quoted(lines: Sequence[str], header: _Header) -> bool:
    """Whether cells between tabs are quoted as a spreadsheet does it. A text may stand in quotes
    in a file that knows no quoting; so it is quoted only if the rows fit the header in no other
    way, or if the quotes tell: they are doubled, or around the header, or around all commas."""
    width = len(header.names)
    try:
        rows = [row.cells for row in _csv_rows(lines, "\t", header) if any(row.cells)]
    except DataError:
        return False
    if any(len(cells) != width for cells in rows):
        return False
    plain = [line for line in lines if line.strip()]
    if any(line.count("\t") != width - 1 for line in plain):
        return True
    if len(plain) != len(rows):
        return False
    text = "".join(lines)
    quoted, others = "\0".join(_CELL.findall(text)), _CELL.sub("", text)
    return '""' in quoted or text.startswith('"') or ("," in quoted and "," not in others)


def _parquet(file: File, columns: Columns) -> Table:
    pyarrow = _library("pyarrow", "pyarrow.parquet", file)
    try:
        table = pyarrow.read_table(io.BytesIO(file.content))
        header = _Header(file.path, table.column_names, columns)
        rows = table.rename_columns(header.names).to_pylist()
    except (ValueError, OSError) as error:
        raise DataError(f"{file.path}: cannot be read: {error}") from error
    return Table(tuple(TableRow(n, row) for n, row in enumerate(rows, start=1)), noun="row")


def _spreadsheet(file: File, columns: Columns) -> Table:
    openpyxl = _library("openpyxl", "openpyxl", file)
    try:
        book = openpyxl.load_workbook(io.BytesIO(file.content), read_only=True, data_only=True)
        sheets = {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file.path}: cannot be read: {error}") from error
    filled = [title for title, rows in sheets.items() if any(any(row) for row in rows)]
    if len(filled) != 1:
        names = ", ".join(filled) or "none"
        raise DataError(f"{file.path}: must have one sheet with cells in it; it has {names}")
    (first, *others) = (list(map(_cell, row)) for row in sheets[filled[0]])
    if not _names(first, columns):
        raise DataError(_no_columns(file, first, columns))
    header = _Header(file.path, first, columns)
    rows = [row for n, cells in enumerate(others, start=2) for row in header.row(n, cells)]
    return Table(tuple(rows))


def _cell(value: object) -> str:
    """A cell of a spreadsheet as its text."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _library(package: str, module: str, file: File) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{file.path}: to read {file.form} needs the package {package}: pip install {package}"
        ) from error


def _first_row(lines: Sequence[str], separator: str) -> list[str]:
    try:
        return next(csv.reader(lines[:_HEADER_LINES], delimiter=separator, strict=True), [])
    except csv.Error:  # it is no header
        return lines[0].rstrip("\r\n").split(separator)


def _places(cells: Sequence[str], name: str) -> list[int]:
    """Where a name stands; if nowhere, where it does but for case and spacing."""
    exact = [place for place, cell in enumerate(cells) if cell == name]
    wanted = name.strip().lower()
    return exact or [at for at, cell in enumerate(cells) if cell.strip().lower() == wanted]


def _names(cells: Sequence[str], columns: Columns) -> bool:
    """Whether it is a header that names all the columns."""
    return all(_places(cells, name) for name in columns.names)


def _no_columns(file: File, header: Sequence[str], columns: Columns) -> str:
    if file.form not in (".csv", ".xlsx") and not columns.hint:
        return f"{file.path}: not valid JSON, nor a table with {columns.listed}"
    names = " and ".join(f"`{name}`" for name in columns.names)
    return f"{file.path}: line 1 is {list(header)}; it must name {names}{columns.hint}"


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"
