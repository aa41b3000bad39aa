"""Instructions for a small chat model that has read a lot already, out of two larger sets.

    python -m examples.answers --exercises exercises-train.json \\
        --dolly dolly-short-answers.json.xz --out data

exercises-few.json   the first exercises of each kind (`examples.exercises`): the kinds weigh alike,
                     and a few of each show what is asked
short-answers.json   questions of people and their answers in one line (Databricks Dolly), without
                     those that ask about a text which is not there
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.checkpoint.atomic import write_file
from model.errors import DataError, PenwrightError, UsageError
from training.data.conversations import Instruction
from training.data.files import read_file
from training.data.records import loads

_SHORTEST, _LONGEST = 3, 160
"""Characters of an answer."""
_SEED = 7
Row = Mapping[str, Any]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "examples.answers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--exercises", type=Path, required=True)
    found.add_argument("--dolly", type=Path, required=True, help="JSON, also as .json.xz")
    found.add_argument("--out", type=Path, required=True, help="directory to write into")
    found.add_argument("--of-a-kind", type=int, default=28, help="exercises of each kind (28)")
    found.add_argument("--answers", type=int, default=1000, help="short answers (1000)")
    return found


def few_of_each_kind(rows: Iterable[Row], most: int) -> list[Row]:
    """The first `most` rows of each kind, kind by kind."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    return [row for found in kinds.values() for row in found[:most]]


def short_answers(rows: Iterable[Row], count: int) -> list[Row]:
    """Rows drawn from those that can be answered without a text, in one short line."""
    usable = [
        row
        for row in rows
        if not row["input"]
        and not Instruction(row["instruction"], "", row["output"]).needs_a_passage
        and _SHORTEST <= len(row["output"]) <= _LONGEST
        and "\n" not in row["output"]
    ]
    random.Random(_SEED).shuffle(usable)
    return usable[:count]


def _read(path: Path) -> list[Row]:
    try:
        rows = loads(read_file(path).text)
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: is no list of rows")
    return rows


def write(args: argparse.Namespace) -> list[Path]:
    """Write both files.

    Raises:
        UsageError: a count is not above 0.
        DataError: a file cannot be read, or has no such rows.
    """
    for flag, count in (("--of-a-kind", args.of_a_kind), ("--answers", args.answers)):
        if count < 1:
            raise UsageError(f"{flag} is {count}; it must be above 0")
    try:
        found = {
            "exercises-few.json": few_of_each_kind(_read(args.exercises), args.of_a_kind),
            "short-answers.json": short_answers(_read(args.dolly), args.answers),
        }
    except KeyError as error:
        raise DataError(f"a row of --exercises or --dolly lacks {error}") from error
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in found.items():
        write_file(args.out / name, json.dumps(rows).encode())
    return [args.out / name for name in found]


def main() -> int:
    try:
        for path in write(parser().parse_args()):
            print(f"{path}: {path.stat().st_size:,} bytes")
    except (PenwrightError, OSError) as error:
        print(f"examples.answers: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
