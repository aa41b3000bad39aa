"""Separated values: CSV, TSV, and lines of a label and a text.

They are read as strictly as they can be: a row has as many cells as the header, and quotes are
whole, for a reader that forgives cuts texts and swallows rows.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from model.errors import DataError
from training.data.files import File
from training.data.tables import Columns, Header, Table, TableRow, has_all

_SEPARATORS = ",;\t"  # spreadsheets of some countries write semicolons
_END = r"[ \t]*(?:\r\n|\n|\r)"
_BEFORE = re.compile(rf'(?:{_END})*(?:"?sep=(.)"?{_END})?', re.IGNORECASE)
"""Empty lines, and Excel's line that says the separator."""
_CELL = re.compile(r'(?<![^\t\n\r])"((?:[^"]|"")*+)"(?![^\t\n\r])')
"""A quoted cell between tabs."""
_HEADER_LINES = 10  # at most: a name may have a line end in it


def read_separated(file: File, columns: Columns) -> Table:
    """The rows of a text file that is no JSON.

    Raises:
        DataError: a row is malformed, or the columns are not there; names file and line.
    """
    before = _BEFORE.match(file.text)
    assert before is not None  # it may be empty
    said, offset = before.group(1), len(re.findall(_END, before.group()))
    lines = io.StringIO(file.text[before.end() :], newline="").readlines()
    first = lines[0] if lines else ""
    separators = [said] if said else sorted(_SEPARATORS, key=first.count, reverse=True)
    if file.form != ".csv" and not said and "\t" in first:
        separators = ["\t"]  # its commas belong to a text
    cells = {separator: _first_row(lines, separator) for separator in separators}
    fitting = [separator for separator in separators if has_all(cells[separator], columns)]
    if not fitting and file.form != ".csv" and columns.lines:
        return _plain(file, columns)
    separator = next(iter(fitting), separators[0])
    header = Header(file, cells[separator], columns, offset + 1)
    if file.form == ".csv" or separator != "\t" or said or _is_quoted(lines, header):
        start = next(_csv_rows(lines, separator, header, offset)).end
        prefix = before.group() + "".join(lines[:start])
        return Table(tuple(_quoted(lines, separator, header, offset)), prefix)
    return _tabbed(file, header, columns.names[-1], offset)


class _CsvRow(NamedTuple):
    """Cells, and the lines that they stand in: from `start`, from 0, to before `end`."""

    start: int
    end: int
    cells: list[str]


def _quoted(
    lines: Sequence[str], separator: str, header: Header, offset: int
) -> Iterator[TableRow]:
    rows = _csv_rows(lines, separator, header, offset)
    next(rows)
    for start, end, cells in rows:
        piece = "".join(lines[start:end])
        if not piece.endswith(("\n", "\r")):
            piece += "\n"
        yield from header.row(start + 1 + offset, cells, piece)


def _csv_rows(
    lines: Sequence[str], separator: str, header: Header, offset: int = 0
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


def _tabbed(file: File, header: Header, last: str, offset: int) -> Table:
    """Columns between tabs, below a header, without quoting. If `last` is the last column, it has
    all that follows."""
    open_end = header.names[-1] == last and header.all == len(header.names)
    most = header.all - 1 if open_end else -1
    rows: list[TableRow] = []
    for number, line in enumerate(file.lines[offset + 1 :], start=offset + 2):
        rows += header.row(number, line.rstrip("\r\n").split("\t", most), line)
    return Table(tuple(rows), prefix="".join(file.lines[: offset + 1]))


def _plain(file: File, columns: Columns) -> Table:
    """Lines without a header."""
    rows = []
    for number, line in enumerate(file.lines, start=1):
        content = line.rstrip("\r\n")
        if not content.strip():
            continue
        cells = content.split("\t", len(columns.names) - 1)
        if len(cells) < len(columns.names):
            names = " and a ".join(columns.names)
            raise DataError(f"{file.path}: line {number} has no tab between a {names}")
        rows.append(TableRow(number, dict(zip(columns.names, cells, strict=True)), line))
    return Table(tuple(rows))


def _is_quoted(lines: Sequence[str], header: Header) -> bool:
    """Whether cells between tabs are quoted as a spreadsheet does it. A text may stand in quotes
    in a file that knows no quoting; so it is quoted only if the rows fit the header in no other
    way, or if the quotes tell: they are doubled, or around the header, or around all commas."""
    fitting = range(len(header.names), header.all + 1)
    try:
        rows = [row.cells for row in _csv_rows(lines, "\t", header) if any(row.cells)]
    except DataError:
        return False
    if any(len(cells) not in fitting for cells in rows):
        return False
    plain = [line for line in lines if line.strip()]
    if any(line.count("\t") + 1 not in fitting for line in plain):
        return True
    if len(plain) != len(rows):
        return False
    text = "".join(lines)
    quoted, others = "\0".join(_CELL.findall(text)), _CELL.sub("", text)
    return '""' in quoted or text.startswith('"') or ("," in quoted and "," not in others)


def _first_row(lines: Sequence[str], separator: str) -> list[str]:
    try:
        return next(csv.reader(lines[:_HEADER_LINES], delimiter=separator, strict=True), [])
    except csv.Error:  # it is no header
        return lines[0].rstrip("\r\n").split(separator)
