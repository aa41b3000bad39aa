"""Tables that are no text: parquet, and spreadsheets. Each needs a library, which is not installed
with the project.
"""

import importlib
import io
import zipfile
from typing import Any

from model.errors import DataError
from training.data.files import File
from training.data.tables import Columns, Header, Table, TableRow


def read_binary(file: File, columns: Columns) -> Table:
    """The rows of a file of one of the forms `training.data.files.BINARY`.

    Raises:
        DataError: it cannot be read, or the library is missing; says what to install.
    """
    return _parquet(file, columns) if file.form == ".parquet" else _spreadsheet(file, columns)


def _parquet(file: File, columns: Columns) -> Table:
    pyarrow = _library("pyarrow", "pyarrow.parquet", file)
    try:
        table = pyarrow.read_table(io.BytesIO(file.content))
        names = columns.renamed(table.column_names, f"{file.path}: its header")
        rows = table.rename_columns(names).to_pylist()
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
    header = Header(file, first, columns)
    rows = [row for n, cells in enumerate(others, start=2) for row in header.row(n, cells)]
    return Table(tuple(rows))


def _cell(value: object) -> str:
    """A cell of a spreadsheet as its text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _library(package: str, module: str, file: File) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{file.path}: to read {file.form} needs the package {package}: pip install {package}"
        ) from error
