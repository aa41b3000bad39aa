"""Data files of any kind as rows that can be compared, and written again without some of them.

labelled       texts with labels, in the forms of `training.data.labelled_files`
instructions   a JSON list or JSON lines of instructions, preference pairs or chats; what is
               compared is the question, with its input
text           documents, in the form of `training.data.documents`
"""

import csv
import io
import json
import lzma
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from model.checkpoint.atomic import write_file
from model.errors import DataError
from model.tokenizer import END_OF_TEXT
from training.data.documents import documents, read_text
from training.data.labelled_files import Reading, numbered_rows

KINDS = ("labelled", "instructions", "text")

_SEPARATOR = re.compile(rf"^{re.escape(END_OF_TEXT)}[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """What two rows are compared by."""

    line: int
    """Where it stands in its file, from 1: a line, or in a JSON list the item."""
    text: str
    label: str | None


@dataclass(frozen=True)
class DataFile:
    """All rows of a file, and what it takes to write it again."""

    path: Path
    kind: str
    rows: tuple[Row, ...]
    pieces: tuple[str, ...]
    """Each row as it stands in the file."""
    prefix: str = ""
    """What stands before the rows: a header."""
    joiner: str = ""
    suffix: str = ""

    def write_without(self, dropped: Collection[int], out: Path) -> None:
        """Write the rows whose indices are not in `dropped` to `out`, packed if its name ends in
        `.xz`, whole or not at all.

        Raises:
            PenwrightError: it cannot be written; names the file.
        """
        kept = (piece for index, piece in enumerate(self.pieces) if index not in dropped)
        content = (self.prefix + self.joiner.join(kept) + self.suffix).encode()
        write_file(out, lzma.compress(content) if out.suffix == ".xz" else content)


def form(path: Path) -> str:
    """The suffix that tells the form of a file: that before `.xz`, if it is packed."""
    return (Path(path.stem).suffix if path.suffix == ".xz" else path.suffix).lower()


def read_rows(path: Path, kind: str | None = None, reading: Reading | None = None) -> DataFile:
    """All rows of a file.

    Args:
        kind: one of `KINDS`; None finds it out from the name and the beginning of the file.
        reading: names the columns of labelled texts.

    Raises:
        DataError: the file cannot be read, or a row is malformed; names file and line.
    """
    text = read_text(path)
    reading = reading or Reading()
    kind = kind or _kind(path, text, reading)
    if kind == "text":
        return _text(path, text)
    return _labelled(path, text, reading) if kind == "labelled" else _instructions(path, text)


def _kind(path: Path, text: str, reading: Reading) -> str:
    by_name = {".csv": "labelled", ".tsv": "labelled", ".json": "instructions", ".txt": "text"}
    if form(path) in by_name:
        return by_name[form(path)]
    first = next(line for line in text.splitlines() if line.strip())
    if form(path) == ".jsonl":
        return "labelled" if reading.label_column in _json(first, path, 1) else "instructions"
    return "labelled" if "\t" in first else "text"


def _text(path: Path, text: str) -> DataFile:
    rows, line, start = [], 1, 0
    ends = [(match.start(), match.end()) for match in _SEPARATOR.finditer(text)]
    for end, following in [*ends, (len(text), len(text))]:
        part = text[start:end]
        blank = len(part) - len(part.lstrip())
        for document in documents(part):
            rows.append(Row(line + part.count("\n", 0, blank), document, None))
        line += text.count("\n", start, following)
        start = following
    pieces = tuple(row.text for row in rows)
    return DataFile(path, "text", tuple(rows), pieces, joiner=f"\n{END_OF_TEXT}\n", suffix="\n")


def _labelled(path: Path, text: str, reading: Reading) -> DataFile:
    rows = [Row(line, row.text, row.label) for line, row in numbered_rows(path, reading)]
    if form(path) != ".csv":
        return _of_lines(path, "labelled", text, rows)
    # A row of a CSV may go over several lines.
    lines = io.StringIO(text, newline="").readlines()
    reader = csv.reader(io.StringIO(text, newline=""))
    next(reader)
    ends = [reader.line_num, *(row.line for row in rows)]
    pieces = ["".join(lines[a:b]) for a, b in pairwise(ends)]
    if pieces and not pieces[-1].endswith("\n"):
        pieces[-1] += "\n"
    return DataFile(path, "labelled", tuple(rows), tuple(pieces), prefix="".join(lines[: ends[0]]))


def _of_lines(path: Path, kind: str, text: str, rows: list[Row]) -> DataFile:
    """A file of one line a row; empty lines are left out."""
    lines = text.split("\n")
    header = [line for line in lines[: rows[0].line - 1] if line.strip()]
    pieces = tuple(lines[row.line - 1] + "\n" for row in rows)
    return DataFile(path, kind, tuple(rows), pieces, prefix="".join(f"{h}\n" for h in header))


def _instructions(path: Path, text: str) -> DataFile:
    if form(path) == ".jsonl":
        rows = [
            Row(number, _question(_json(line, path, number), f"{path}: line {number}"), None)
            for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
            if line.strip()
        ]
        return _of_lines(path, "instructions", text, rows)
    items = list(_items(path, text))
    questions = [_question(row, f"{path}: row {n}") for n, row in enumerate(items, start=1)]
    return DataFile(
        path,
        "instructions",
        tuple(Row(number, question, None) for number, question in enumerate(questions, start=1)),
        tuple(_dumped(item) for item in items),
        prefix="[\n",
        joiner=",\n",
        suffix="\n]\n",
    )


def _items(path: Path, text: str) -> Iterator[Any]:
    try:
        items = json.loads(text.removeprefix("\ufeff"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(items, list) or not items:
        raise DataError(f"{path}: must hold a list of objects, and at least one")
    yield from items


def _dumped(item: Any) -> str:
    text = json.dumps(item, ensure_ascii=False, indent=4)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: only an escape can stand for it
        return json.dumps(item, indent=4)
    return text


def _json(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix("\ufeff"))
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not an object")
    return row


def _question(row: Any, where: str) -> str:
    """What is asked: the instruction with its input, or what a chat says but for the answers."""
    if isinstance(row, dict):
        asked = [row.get("instruction"), row.get("input", "")]
        messages = row.get("messages")
        if isinstance(messages, list) and all(isinstance(turn, dict) for turn in messages):
            asked = [turn.get("content") for turn in messages if turn.get("role") != "assistant"]
        if all(isinstance(part, str) for part in asked) and any(asked):
            return "\n".join(asked)
    raise DataError(f"{where} has neither an `instruction` nor `messages` that ask something")
