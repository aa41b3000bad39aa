"""A data file as records: fields by their names, with the line that each record begins on.

All trainings read their rows from here. The forms, told apart by the name and, where that is not
enough, by the content:

    JSON       a list of objects, or one object a line; whether it ends in .json or .jsonl
    .csv       columns below a header, cells quoted as spreadsheets do it; commas, semicolons, tabs
    .tsv, …    columns below a header, quoted or not; or lines without one
    .parquet   where pyarrow is installed
    .xlsx      where openpyxl is installed

A record that cannot be learnt, such as one without a text, is left out, counted and named. What is
malformed is refused, with its line.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from model.errors import DataError
from training.data.files import BINARY, File, Source, read_file
from training.data.naming import name_rows
from training.data.separated import read_separated
from training.data.sheets import read_binary
from training.data.tables import Columns

Row = TypeVar("Row")


class LeftOut(Exception):
    """A record, or a part of one, that cannot be learnt, and why."""


@dataclass(frozen=True)
class Record:
    """One record of a file."""

    path: Path
    place: str
    """`line 3`; of JSON lists and parquet, `row 3`."""
    number: int
    """That line or row, from 1."""
    fields: Mapping[str, Any]
    piece: str = ""
    """As it stands in the file, with its line end; empty where that cannot be said."""
    fault: str = ""
    """Why it is left out, if it is."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a JSON object with their names as they stand there."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.path}: {self.place}"

    def string(self, name: str, hint: str = "", *, numbers: bool = False) -> str:
        """The field `name`, which must be there.

        Args:
            hint: what to say after the names of the fields that there are.
            numbers: whether it may be a whole number, also with a decimal point, or a boolean,
                which becomes its text in JSON.

        Raises:
            DataError: it is no string that can be written; names file, line and field.
        """
        value = self.fields.get(name)
        if numbers and isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas makes floats of whole numbers in a column with a null
        if numbers and isinstance(value, int):
            value = json.dumps(value)
        if not isinstance(value, str):
            known = f"; its fields are {', '.join(map(str, self.fields)) or 'none'}{hint}"
            raise DataError(f"{self.where} has no {name} that is a string{known}")
        return value if value.isascii() else checked(value, self.where, name)

    def check_present(self, *names: str) -> None:
        """
        Raises:
            LeftOut: one of the fields is there, and null, or the NaN that stands for it in parquet.
        """
        for name in names:
            if name in self.fields and is_null(self.fields[name]):
                raise LeftOut(f"its {name} is null")


def is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


@dataclass(frozen=True)
class Records:
    """All records of one file, at least one."""

    records: tuple[Record, ...]
    prefix: str = ""
    """What stands before the pieces: a header."""
    is_list: bool = False
    """Whether they are the items of a JSON list."""


def read_records(source: Source, columns: Columns, encoding: str | None = None) -> Records:
    """All records of a file.

    Args:
        columns: what is looked for, by which headers are known.

    Raises:
        DataError: it cannot be read, is malformed, or has no record; names file and line.
    """
    file = read_file(source, encoding)
    found = None if file.form in BINARY else json_records(file, columns)
    if found is None:
        table = (read_binary if file.form in BINARY else read_separated)(file, columns)
        found = Records(
            tuple(Record(file.path, f"{table.noun} {row.number}", *row) for row in table.rows),
            table.prefix,
        )
    if not found.records:
        raise DataError(f"{file.path}: has no rows")
    return found


def usable(
    records: Records, convert: Callable[[Record], Iterable[Row]]
) -> Iterator[tuple[Record, Row]]:
    """What `convert` makes of each record. Those that are left out are counted and named on
    stderr, once all are read.

    Args:
        convert: raises `LeftOut` for a record that has to be left out, or for its rest.

    Raises:
        DataError: nothing is left.
    """
    left: list[str] = []
    found = whole = 0
    for record in records.records:
        before = found
        try:
            if record.fault:
                raise LeftOut(record.fault)
            for row in convert(record):
                found += 1
                yield record, row
        except LeftOut as reason:
            left.append(f"{record.place}: {reason}")
            whole += found == before
    if left:
        path = records.records[0].path
        name_rows(f"{path}: {_said(whole, len(left) - whole, len(records.records))}", left)
        if not found:
            raise DataError(f"{path}: has no rows that can be used")


def _said(whole: int, partly: int, count: int) -> str:
    """How many of `count` records are left out, and of how many others a part is."""
    if not partly:
        return f"{whole} of {count} rows are left out"
    if not whole:
        return f"{partly} of {count} rows are left out in part"
    return f"{whole} of {count} rows are left out, and {partly} more in part"


def checked(text: str, where: str, name: str) -> str:
    """`text`, if it can be written.

    Raises:
        DataError: it has half of a surrogate pair, which is no character; names place and field.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"{where}: {name} has {half}, half of a surrogate pair, which is no character"
        ) from None
    return text


def json_records(file: File, columns: Columns) -> Records | None:
    """The records of a JSON file; None if it is none."""
    lines = [(n, line) for n, line in enumerate(file.lines, start=1) if line.strip()]
    first = lines[0][1]
    if file.form == ".json" and not (_is_object(first) and len(lines) > 1):
        try:
            items = loads(file.text)
        except ValueError as error:
            raise DataError(f"{file.path}: not valid JSON: {error}") from error
        if isinstance(items, dict) and any(map(columns.known, items)):
            number, _ = lines[0]
            piece = file.text if file.text.endswith("\n") else file.text + "\n"
            return Records((_Objects(file.path, columns).record("line", number, items, piece),))
        if not isinstance(items, list):
            known = f"; it is an object with {', '.join(items)}" if isinstance(items, dict) else ""
            raise DataError(f"{file.path}: must hold a list of objects{known}")
        return _of_list(file.path, items, columns)
    if first.lstrip().startswith("[") and _holds_objects(file.text):
        return _of_list(file.path, loads(file.text), columns)
    if file.form in (".json", ".jsonl") or _is_object(first):
        return _of_lines(file.path, lines, columns)
    return None


def _of_list(path: Path, items: Sequence[Any], columns: Columns) -> Records:
    if not items:
        raise DataError(f"{path}: has no rows")
    objects = _Objects(path, columns)
    rows = (objects.record("row", number, item) for number, item in enumerate(items, start=1))
    return Records(tuple(rows), is_list=True)


def _of_lines(path: Path, lines: Iterable[tuple[int, str]], columns: Columns) -> Records:
    objects = _Objects(path, columns)
    records = []
    for number, line in lines:
        try:
            item = loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error
        records.append(objects.record("line", number, item, line))
    return Records(tuple(records))


class _Objects:
    """Makes records of a file's JSON objects, most of which have the same keys."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def record(self, noun: str, number: int, item: Any, piece: str = "") -> Record:
        """
        Raises:
            DataError: it is no object, or has a field twice.
        """
        place = f"{noun} {number}"
        if not isinstance(item, dict):
            raise DataError(f"{self.path}: {place} is not an object with {self.columns.listed}")
        keys = tuple(item)
        if keys not in self._names:
            self._names[keys] = tuple(self.columns.renamed(keys, f"{self.path}: {place}"))
        names = self._names[keys]
        fields = item if names == keys else dict(zip(names, item.values(), strict=True))
        return Record(self.path, place, number, fields, piece, given=item)


def loads(text: str) -> Any:
    """JSON as its standard has it.

    Raises:
        ValueError: it is none, or a key stands in an object twice.
    """
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _is_object(line: str) -> bool:
    """Whether a line is a JSON object, by its form."""
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _holds_objects(text: str) -> bool:
    """Whether it is a JSON list whose first item is an object."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(items, list) and bool(items) and isinstance(items[0], dict)
