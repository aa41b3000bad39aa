"""Instructions of some files in three parts.

A row's part depends on its own text alone, so that adding files never moves a row from the test
part into training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import DataError
from training.data.conversations import Instruction, read_instructions
from training.data.documents import hash_fraction, text_hash
from training.data.files import read_file
from training.data.given import NONE_GIVEN, File, Given, among
from training.data.splits import NAMES, NOTHING, SAID, Part, Parts

SPLIT_RULE = (
    "repeated pairs of instruction and input (case and spacing aside) dropped; then by the SHA-256 "
    "of the normalised pair as a fraction: below 0.10 test, below 0.15 validation, else training"
)

_TEST_BELOW, _VAL_BELOW = 0.10, 0.15


@dataclass(frozen=True)
class InstructionData:
    """Distinct instructions in three parts."""

    train: tuple[Instruction, ...]
    """Rows of files that are repeated stand here as often."""
    val: tuple[Instruction, ...]
    test: tuple[Instruction, ...]
    rows: int
    """Rows read."""
    duplicates: int
    """Rows dropped because their instruction and input came before."""
    sources: tuple[dict[str, object], ...]
    """Name, SHA-256 and rows of each file, and what `--val`, `--test` and `--repeat` make of it."""
    without_passage: int = 0
    """Rows dropped because they ask about a text that is not there."""
    split_rule: str = SPLIT_RULE
    unused: tuple[Instruction, ...] = ()
    """Of the training part, those that `--repeat` leaves out; and what a base has learnt of files
    that are set apart; and of chats that begin as one of those does."""
    begun_alike: int = 0
    """How many rows are left out, for their chat begins as one that is set apart."""
    learnt: int = 0
    """How many rows are no test any more, for a base has learnt them."""

    def parts(self) -> Parts:
        """Which row is where."""
        parts = Parts()
        for name in NAMES:
            parts.add(name, (row.identity for row in getattr(self, name)))
        return parts


@dataclass
class _Distinct:
    """The distinct rows of some files."""

    rows: dict[str, tuple[Instruction, int]] = field(default_factory=dict)
    """By their identity: the first of them, and the number of its file."""
    parts: dict[str, set[Part]] = field(default_factory=dict)
    """To which a row may come: what is in two files, to those of both."""
    sources: list[dict[str, object]] = field(default_factory=list)
    read: int = 0
    without_passage: int = 0


def load_instructions(
    paths: Sequence[Path],
    *,
    repeats: Sequence[float] = (),
    given: Given = NONE_GIVEN,
    known: Parts = NOTHING,
    encoding: str | None = None,
) -> InstructionData:
    """Read, de-duplicate and split.

    Args:
        repeats: for each of `paths`, how often an epoch has its training rows; a fraction stands
            for that share of them, chosen by their hashes.
        given: files that are set apart.
        known: parts of the training that this one goes on from; what it learnt is not tested.
        encoding: of the files, if they are not in UTF-8.

    Raises:
        UsageError: a file is to test and to validate.
        DataError: a file cannot be used, or a part would be empty; names file and row.
    """
    files = given.files(paths)
    apart = len(files) - len(paths)
    often: Mapping[int, float] = {apart + i: times for i, times in enumerate(repeats)}
    distinct = _read(files, encoding)
    for number, times in often.items():
        distinct.sources[number]["repeat"] = times
    # A chat that goes on differently is known by its beginning.
    groups = {row.group for row, number in distinct.rows.values() if number < apart}
    parts: dict[str, list[Instruction]] = {name: [] for name in NAMES}
    learnt = begun_alike = 0
    for key, (row, number) in sorted(distinct.rows.items(), key=lambda item: item[0]):
        wanted = among(distinct.parts[key], part_of(row.group))
        part = known.after(wanted, row.identity, row.group)
        learnt += wanted == "test" != part
        times = 1
        if number < apart:
            times = int(part == wanted)
        elif row.group in groups:
            times = 0
            begun_alike += 1
        elif part == "train":
            times = _times(row, often.get(number, 1))
        parts[part if times else "unused"] += [row] * max(times, 1)
    for name in SAID:
        if not parts[name]:
            raise DataError(
                f"{', '.join(str(file.path) for file in files)}: of {len(distinct.rows)} distinct "
                f"rows none falls into the {SAID[name]} part{_learnt(learnt)}; give more rows"
                f"{_or_own(name)}"
            )
    return InstructionData(
        train=tuple(parts["train"]),
        val=tuple(parts["val"]),
        test=tuple(parts["test"]),
        rows=distinct.read,
        duplicates=distinct.read - distinct.without_passage - len(distinct.rows),
        sources=tuple(distinct.sources),
        without_passage=distinct.without_passage,
        split_rule=SPLIT_RULE + given.rule(),
        unused=tuple(parts["unused"]),
        begun_alike=begun_alike,
        learnt=learnt,
    )


def _read(files: Sequence[File], encoding: str | None) -> _Distinct:
    distinct = _Distinct()
    for number, file in enumerate(files):
        content = read_file(file.path, encoding)
        found = list(read_instructions(content))
        usable = [row for row in found if not row.needs_a_passage]
        for row in usable:
            key = text_hash(row.identity)
            _, first = distinct.rows.setdefault(key, (row, number))
            # What is set apart is nothing else, whatever other files have it.
            if first == number or not files[first].set_apart:
                distinct.parts.setdefault(key, set()).update(file.parts)
        distinct.read += len(found)
        distinct.without_passage += len(found) - len(usable)
        distinct.sources.append({**content.source, "rows": len(found), **file.source()})
    return distinct


def _or_own(part: str) -> str:
    """What else helps where there are too few rows."""
    return f", or a file of your own with --{part}" * (part != "train")


def _learnt(count: int) -> str:
    """What is said of rows that a base has learnt."""
    return f", and {count} that would are known to what the training goes on from" * bool(count)


def _times(row: Instruction, repeat: float) -> int:
    """How often an epoch has the row."""
    whole = int(repeat)
    return whole + (hash_fraction(f"repeat\n{row.identity}") < repeat - whole)


def part_of(group: str) -> Part:
    """The part that a question belongs to, whatever its answers are.

    Args:
        group: of its row.
    """
    fraction = hash_fraction(group)
    late: Part = "val" if fraction < _VAL_BELOW else "train"
    return "test" if fraction < _TEST_BELOW else late
