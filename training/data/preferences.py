"""Pairs of answers of which one is preferred, in the JSON form of the book.

A file is a list of objects with `instruction`, `input` (may be empty or missing), `chosen` and
`rejected`; `.json`, or `.json.xz`. Other fields are left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError
from training.data.conversations import Instruction, json_rows, part_of
from training.data.documents import file_sha256, text_hash
from training.data.splits import SAID, Parts, settled

SPLIT_RULE = (
    "pairs with equal answers, and repeated pairs (case and spacing aside), dropped; then by the "
    "SHA-256 of the normalised instruction and input as a fraction, as in instruction tuning: "
    "below 0.10 test, below 0.15 validation, else training"
)

_FIELDS = ("instruction", "input", "chosen", "rejected")
_NAMED = 10  # how many rows a message names at most


@dataclass(frozen=True)
class Preference:
    """One task with the answer that is preferred and the one that is not."""

    instruction: str
    input: str
    chosen: str
    rejected: str

    @property
    def question(self) -> Instruction:
        """The task with the preferred answer."""
        return Instruction(self.instruction, self.input, self.chosen)

    @property
    def equal(self) -> bool:
        """Whether both answers are the same."""
        return self.chosen.strip() == self.rejected.strip()


@dataclass(frozen=True)
class PreferenceData:
    """Distinct pairs in three parts. All pairs of one question are in the same part, which is the
    part that instruction tuning puts the question into: preferences learnt after it are tested on
    questions that neither of them saw."""

    train: tuple[Preference, ...]
    val: tuple[Preference, ...]
    test: tuple[Preference, ...]
    rows: int
    """Rows read."""
    duplicates: int
    """Rows dropped because question and answers came before."""
    equal: int
    """Rows dropped because their answers are equal (spacing around them aside): nothing is
    preferred there."""
    equal_at: tuple[str, ...]
    """Where they are, by file; the first of them."""
    sources: tuple[dict[str, object], ...]
    """Name, SHA-256 and rows of each file."""

    def parts(self) -> Parts:
        """Which question is where."""
        parts = Parts()
        parts.add("train", (row.question.identity for row in self.train))
        parts.add("val", (row.question.identity for row in self.val))
        parts.add("test", (row.question.identity for row in self.test))
        return parts


def load_preferences(paths: Sequence[Path], known: Parts | None = None) -> PreferenceData:
    """Read, drop what teaches nothing, and split.

    Args:
        known: parts of the training that this one goes on from; what it learnt is not tested.

    Raises:
        DataError: a file cannot be used, or a part would be empty; names file and row.
    """
    distinct: dict[str, Preference] = {}
    sources: list[dict[str, object]] = []
    equal_at: list[str] = []
    rows = equal = 0
    for path in paths:
        found = read_preferences(path)
        same = [number for number, row in enumerate(found, 1) if row.equal]
        if same:
            more = ", …" if len(same) > _NAMED else ""
            equal_at.append(f"{path}: row {', '.join(map(str, same[:_NAMED]))}{more}")
        for row in found:
            if not row.equal:
                texts = (row.question.identity, row.chosen, row.rejected)
                distinct.setdefault(" ".join(map(text_hash, texts)), row)
        equal += len(same)
        rows += len(found)
        sources.append({"file": path.name, "sha256": file_sha256(path), "rows": len(found)})
    parts: dict[str, list[Preference]] = {"train": [], "val": [], "test": []}
    for _, row in sorted(distinct.items()):
        identity = row.question.identity
        parts[settled(part_of(identity), identity, known)].append(row)
    for name, part in parts.items():
        if not part:
            raise DataError(
                f"{', '.join(map(str, paths))}: of {len(distinct)} distinct pairs with two "
                f"different answers, none falls into the {SAID[name]} part; give more rows"
            )
    return PreferenceData(
        train=tuple(parts["train"]),
        val=tuple(parts["val"]),
        test=tuple(parts["test"]),
        rows=rows,
        duplicates=rows - equal - len(distinct),
        equal=equal,
        equal_at=tuple(equal_at),
        sources=tuple(sources),
    )


def read_preferences(path: Path) -> list[Preference]:
    """All rows of one file. Rows are counted from 1.

    Raises:
        DataError: see `load_preferences`.
    """
    return [
        _preference(row, f"{path}: row {number}") for number, row in enumerate(json_rows(path), 1)
    ]


def _preference(row: Any, where: str) -> Preference:
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is not an object with `instruction`, `input`, `chosen` and `rejected`"
        )
    values = {"input": "", **row}
    for name in _FIELDS:
        if not isinstance(values.get(name), str):
            raise DataError(f"{where} has no {name} that is a string")
        if name != "input" and not values[name].strip():
            raise DataError(f"{where} has an empty {name}")
    return Preference(*(values[name] for name in _FIELDS))
