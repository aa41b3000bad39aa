"""Data files of any kind as rows that can be compared, and written again without some of them.

labelled       texts with labels
instructions   instructions, chats or preference pairs; what is compared is the question, with its
               input, or all that is said in a chat but for the answers
text           documents, in the form of `training.data.documents`

The forms of the first two are those of `training.data.records`.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.checkpoint.atomic import write_file
from model.errors import DataError
from model.tokenizer import END_OF_TEXT
from training.data.chats import CHATS, chat, turns
from training.data.documents import numbered_documents
from training.data.files import File, Source, packed, read_file
from training.data.labelled import Reading, examples
from training.data.records import Record, Records, is_null, json_records, read_records, usable
from training.data.tables import Columns

KINDS = ("labelled", "instructions", "text")

_QUESTIONS = Columns(("instruction",), optional=("prompt", "input", "chosen", *CHATS, "system"))


@dataclass(frozen=True)
class Row:
    """What two rows are compared by."""

    line: int
    """Where it begins in its file, from 1: a line, or in a JSON list the item."""
    text: str
    label: str | None
    piece: int
    """Which piece of the file it is."""


@dataclass(frozen=True)
class DataFile:
    """All rows of a file, and what it takes to write it again."""

    path: Path
    kind: str
    rows: tuple[Row, ...]
    pieces: tuple[str, ...]
    """All that stands in the file, cut into rows and what is none."""
    prefix: str = ""
    """What stands before them: a header."""
    joiner: str = ""
    suffix: str = ""
    encoding: str = "utf-8"

    def write_without(self, dropped: Collection[int], out: Path) -> None:
        """Write all but the rows whose indices are in `dropped` to `out`, packed if its name says
        so, whole or not at all.

        Raises:
            PenwrightError: it cannot be written; names the file.
        """
        gone = {self.rows[index].piece for index in dropped}
        kept = (piece for number, piece in enumerate(self.pieces) if number not in gone)
        text = self.prefix + self.joiner.join(kept) + self.suffix
        write_file(out, packed(text, self.encoding, out))


def read_rows(source: Source, kind: str | None = None, reading: Reading | None = None) -> DataFile:
    """All rows of a file.

    Args:
        kind: one of `KINDS`; None finds it out from the name and the beginning of the file.
        reading: names the columns of labelled texts, and the encoding.

    Raises:
        DataError: the file cannot be read, or a row is malformed; names file and line.
    """
    reading = reading or Reading()
    file = read_file(source, reading.encoding)
    kind = kind or find_kind(file, reading)
    if kind == "text":
        return _text(file)
    if kind == "labelled":
        records = read_records(file, reading.columns)
        texts = [(record, row.text, row.label) for record, row in examples(records, reading)]
        return _again(file, kind, records, texts)
    records = read_records(file, _QUESTIONS)
    questions = [(record, text, None) for record, text in usable(records, _question)]
    return _again(file, kind, records, questions)


def find_kind(source: Source, reading: Reading) -> str:
    """What of `KINDS` a file most likely is, by its name and beginning.

    Raises:
        DataError: it cannot be read.
    """
    file = read_file(source, reading.encoding)
    columns = replace(reading.columns, optional=(*_QUESTIONS.names, *_QUESTIONS.optional))
    if file.form == ".txt":
        return "text"
    records = None
    if file.form == ".parquet":
        records = read_records(file, columns)
    elif file.form not in (".csv", ".tsv", ".xlsx"):
        records = json_records(file, columns)
        if records is None:
            first = next(line for line in file.lines if line.strip())
            return "labelled" if "\t" in first else "text"
    is_labelled = records is None or reading.label_column in records.records[0].fields
    return "labelled" if is_labelled else "instructions"


def _text(file: File) -> DataFile:
    found = list(numbered_documents(file.text))
    rows = tuple(Row(line, text, None, number) for number, (line, text) in enumerate(found))
    pieces = tuple(text for _, text in found)
    joiner = f"\n{END_OF_TEXT}\n"
    return DataFile(file.path, "text", rows, pieces, "", joiner, "\n", file.encoding)


def _again(
    file: File, kind: str, records: Records, texts: Sequence[tuple[Record, str, str | None]]
) -> DataFile:
    places = {record.number: place for place, record in enumerate(records.records)}
    rows = tuple(Row(r.number, text, label, places[r.number]) for r, text, label in texts)
    pieces = tuple(record.piece for record in records.records)
    if records.is_list:
        pieces = tuple(_dumped(record) for record in records.records)
        return DataFile(file.path, kind, rows, pieces, "[\n", ",\n", "\n]\n", file.encoding)
    return DataFile(file.path, kind, rows, pieces, records.prefix, encoding=file.encoding)


def _dumped(record: Record) -> str:
    text = json.dumps(record.given, ensure_ascii=False, indent=4)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: only an escape can stand for it
        return json.dumps(record.given, indent=4)
    return text


def _question(record: Record) -> Iterator[str]:
    """What is asked: the instruction with its input, or what a chat says but for the answers."""
    said = chat(record)
    for name in ("prompt", "chosen"):
        if said is None and isinstance(record.fields.get(name), list):
            said = turns(record.fields[name], record.where)
    if said is not None:
        asked = [message.content for message in said if message.role != "assistant"]
    else:
        names = ("instruction", "prompt", "input")
        asked = [record.string(name) for name in names if not is_null(record.fields.get(name))]
        if not asked:
            record.check_present(*names, *CHATS)
    if not any(asked):
        raise DataError(
            f"{record.where} has neither an `instruction` nor `messages` that ask something"
        )
    yield "\n".join(asked)
