"""The files that exercises are kept in.

exercises-train.json   rows of the Alpaca form, with `kind`, `unique` and, where there are, `accept`
exercises-test.json    the same, with held-out words and phrasings
exercises.txt          the training rows as documents, in the template that serving uses, so that a
                       base model can see them among its text
exercises-plain.txt    the same without the words of the template: instruction, input and response
                       as lines, so that a base sees twice as many exercises in as many tokens
exercises.json         how they were made, and how many there are of each kind
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from examples.exercises.exercise import Exercise
from examples.exercises.generator import Exercises, by_kind
from model.checkpoint.atomic import write_file
from model.prompts import instruction_prompt
from model.tokenizer import END_OF_TEXT


def write_exercises(out: Path, exercises: Exercises, made: dict[str, Any]) -> tuple[Path, ...]:
    """Write all files into `out`, which is made where it is missing.

    Args:
        made: what the rows follow from, such as the seed.
    """
    out.mkdir(parents=True, exist_ok=True)
    counts = {"train": by_kind(exercises.train), "test": by_kind(exercises.test)}
    contents = {
        "exercises-train.json": _json(exercises.train),
        "exercises-test.json": _json(exercises.test),
        "exercises.txt": _documents(map(_in_template, exercises.train)),
        "exercises-plain.txt": _documents(map(_plain, exercises.train)),
        "exercises.json": json.dumps({**made, "rows": counts}, indent=1) + "\n",
    }
    for name, text in contents.items():
        write_file(out / name, text.encode())
    return tuple(out / name for name in contents)


def _json(rows: Sequence[Exercise]) -> str:
    lines = (json.dumps(_row(row), ensure_ascii=False) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _row(row: Exercise) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "instruction": row.instruction,
        "input": row.input,
        "output": row.output,
        "kind": row.kind,
        "unique": row.unique,
    }
    return {**fields, "accept": list(row.accept)} if row.accept else fields


def _in_template(row: Exercise) -> str:
    return instruction_prompt(row.instruction, row.input) + row.output


def _plain(row: Exercise) -> str:
    return "\n".join(part for part in (row.instruction, row.input, row.output) if part)


def _documents(texts: Iterable[str]) -> str:
    return f"\n{END_OF_TEXT}\n".join(texts) + "\n"
