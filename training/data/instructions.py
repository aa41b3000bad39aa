"""Instructions with their responses, in the JSON form of the book and of Alpaca.

A file is a list of objects with `instruction`, `input` (may be empty or missing) and `output`;
`.json`, or `.json.xz`. Other fields are left alone.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError
from training.data.text import file_sha256, hash_fraction, read_text, text_hash

SPLIT_RULE = (
    "repeated pairs of instruction and input (case and spacing aside) dropped; then by the SHA-256 "
    "of the normalised pair as a fraction: below 0.10 test, below 0.15 validation, else training"
)

_TEST_BELOW, _VAL_BELOW = 0.10, 0.15


@dataclass(frozen=True)
class Instruction:
    """One task and the response that is to be learnt."""

    instruction: str
    input: str
    output: str

    @property
    def identity(self) -> str:
        """What makes two rows the same question."""
        return f"{self.instruction}\n{self.input}"


@dataclass(frozen=True)
class InstructionData:
    """Distinct instructions in three parts."""

    train: tuple[Instruction, ...]
    val: tuple[Instruction, ...]
    test: tuple[Instruction, ...]
    rows: int
    """Rows read."""
    duplicates: int
    """Rows dropped because their instruction and input came before."""
    sources: tuple[dict[str, object], ...]
    """Name, SHA-256 and rows of each file."""


def load_instructions(paths: Sequence[Path]) -> InstructionData:
    """Read, de-duplicate and split. A row's part depends on its own text alone, so that adding
    files never moves a row from the test part into training.

    Raises:
        DataError: a file cannot be used, or a part would be empty; names file and row.
    """
    distinct: dict[str, Instruction] = {}
    sources: list[dict[str, object]] = []
    rows = 0
    for path in paths:
        found = list(read_instructions(path))
        for row in found:
            distinct.setdefault(text_hash(row.identity), row)
        rows += len(found)
        sources.append({"file": path.name, "sha256": file_sha256(path), "rows": len(found)})
    parts: dict[str, list[Instruction]] = {"training": [], "validation": [], "test": []}
    for _, row in sorted(distinct.items()):
        fraction = hash_fraction(row.identity)
        late = "validation" if fraction < _VAL_BELOW else "training"
        parts["test" if fraction < _TEST_BELOW else late].append(row)
    for name, part in parts.items():
        if not part:
            raise DataError(
                f"{', '.join(str(path) for path in paths)}: of {len(distinct)} distinct rows, "
                f"none falls into the {name} part; give more rows"
            )
    return InstructionData(
        train=tuple(parts["training"]),
        val=tuple(parts["validation"]),
        test=tuple(parts["test"]),
        rows=rows,
        duplicates=rows - len(distinct),
        sources=tuple(sources),
    )


def read_instructions(path: Path) -> Iterator[Instruction]:
    """All rows of one file. Rows are counted from 1.

    Raises:
        DataError: see `load_instructions`.
    """
    try:
        rows = json.loads(read_text(path).removeprefix("\ufeff"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: must hold a list of objects")
    if not rows:
        raise DataError(f"{path}: has no rows")
    for number, row in enumerate(rows, start=1):
        yield _instruction(row, f"{path}: row {number}")


def _instruction(row: Any, where: str) -> Instruction:
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object with `instruction`, `input` and `output`")
    values = {"input": "", **row}
    for name in ("instruction", "input", "output"):
        if not isinstance(values.get(name), str):
            raise DataError(f"{where} has no {name} that is a string")
        if name != "input" and not values[name].strip():
            raise DataError(f"{where} has an empty {name}")
    return Instruction(values["instruction"], values["input"], values["output"])
