"""Instructions with their responses: the JSON form of the book and of Alpaca, and chats.

A file is a JSON list of objects, `.json`, or one object a line, `.jsonl`; each may be packed,
`.xz`. An object has `instruction`, `input` (may be empty or missing) and `output`; `kind` names
what is asked for, `accept` lists other right outputs, and `unique: false` says that there are
more. Or it has `messages`, with `role` and `content`: one turn of the user and one of the
assistant; the text of a system turn goes in front of the user's, with an empty line between, for
the template has no other place for it. Other fields are left alone.

A row without an input that asks about a passage, an article or a reference text cannot be
answered: it is left out, and counted.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError
from training.data.documents import file_sha256, hash_fraction, read_text, text_hash
from training.data.splits import NAMES, SAID, Part, Parts, settled

SPLIT_RULE = (
    "repeated pairs of instruction and input (case and spacing aside) dropped; then by the SHA-256 "
    "of the normalised pair as a fraction: below 0.10 test, below 0.15 validation, else training"
)

TEST_RULE = (
    "; with --test, files that only --test names are test as a whole, those that only --data names "
    "have no test part, and rows of the test part leave the others"
)
"""What `--test` adds."""

_TEST_BELOW, _VAL_BELOW = 0.10, 0.15

_TEXT = (
    r"(passages?|paragraphs?|paragrah|texts?|articles?|excerpts?|extracts?|summary|plot summary)"
)
_PASSAGE = re.compile(
    rf"(?<!['\"])\b((this|these|the|a) (\w+ )?(below|above|following|given|provided|reference)"
    rf"( \w+)? {_TEXT}\b|re?fe?re?nce (text|para|on)\w*|(given|provided|following|above|below)"
    rf"( \w+)? {_TEXT}\b|(from|given|using|based on|per|according to|in|of) (this|these|the|that)"
    rf" (\w+ )?{_TEXT}\b|{_TEXT} (above|below|provided|given)\b|(here is|there is) some text"
    r"|based on the (\w+ )?(information|details?) (provided|given|above|below))",
    re.IGNORECASE,
)
"""What asks about a text, in words of people who left it out."""

_THERE = re.compile(r":\s*(\S+\s+){7}")  # a text after a colon
_SHORT = 300  # characters: a longer instruction has its passage in it


@dataclass(frozen=True)
class Instruction:
    """One task and the response that is to be learnt."""

    instruction: str
    input: str
    output: str
    kind: str = ""
    """What sort of task it is, if the file says so."""
    unique: bool = True
    """Whether no other response is right; false where the file says so."""
    accept: tuple[str, ...] = ()
    """Other responses that are right."""

    @property
    def identity(self) -> str:
        """What makes two rows the same question."""
        return f"{self.instruction}\n{self.input}"

    @property
    def needs_a_passage(self) -> bool:
        """Whether it asks about a text that is not there."""
        bare = not self.input.strip() and len(self.instruction) < _SHORT
        return bare and "\n" not in self.instruction.strip() and _asks_about_text(self.instruction)


def _asks_about_text(instruction: str) -> bool:
    found = _PASSAGE.search(instruction)
    return found is not None and not _THERE.search(instruction)


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
    """Name, SHA-256 and rows of each file, with what `--test` and `--repeat` make of it."""
    without_passage: int = 0
    """Rows dropped because they ask about a text that is not there."""
    split_rule: str = SPLIT_RULE
    unused: tuple[Instruction, ...] = ()
    """Of the training part, those that `--repeat` leaves out."""

    def parts(self) -> Parts:
        """Which row is where."""
        parts = Parts()
        for name in NAMES:
            parts.add(name, (row.identity for row in getattr(self, name)))
        return parts


def load_instructions(
    paths: Sequence[Path],
    *,
    repeats: Sequence[float] = (),
    test: Sequence[Path] = (),
    known: Parts | None = None,
) -> InstructionData:
    """Read, de-duplicate and split. A row's part depends on its own text alone, so that adding
    files never moves a row from the test part into training.

    Args:
        repeats: for each of `paths`, how often an epoch has its training rows; a fraction stands
            for that share of them, chosen by their hashes.
        test: files for the test; `TEST_RULE` says how.
        known: parts of the training that this one goes on from; what it learnt is not tested.

    Raises:
        DataError: a file cannot be used, or a part would be empty; names file and row.
    """
    distinct: dict[str, tuple[Instruction, int]] = {}
    sources: list[dict[str, object]] = []
    rows = without = 0
    whole = [path for path in test if path.resolve() not in {p.resolve() for p in paths}]
    split = {path.resolve() for path in test} if test else {path.resolve() for path in paths}
    files = [*whole, *paths]  # a row of the test comes first: no other file may have it
    for number, path in enumerate(files):
        found = list(read_instructions(path))
        usable = [row for row in found if not row.needs_a_passage]
        for row in usable:
            distinct.setdefault(text_hash(row.identity), (row, number))
        rows += len(found)
        without += len(found) - len(usable)
        source: dict[str, object] = {"file": path.name, "sha256": file_sha256(path)}
        source["rows"] = len(found)
        if number < len(whole):
            source["part"] = "test"
        elif path.resolve() not in split:
            source["part"] = "training and validation"
        if repeats and number >= len(whole):
            source["repeat"] = repeats[number - len(whole)]
        sources.append(source)
    parts: dict[str, list[Instruction]] = {"train": [], "val": [], "test": []}
    unused = []
    for _, (row, number) in sorted(distinct.items(), key=lambda item: item[0]):
        part = "test" if number < len(whole) else part_of(row.identity)
        if part == "test" and number >= len(whole) and files[number].resolve() not in split:
            part = "train"
        part = settled(part, row.identity, known)
        times = 1
        if part == "train" and repeats and number >= len(whole):
            times = _times(row, repeats[number - len(whole)])
            unused += [] if times else [row]
        parts[part] += [row] * times
    for name, rows_of_part in parts.items():
        if not rows_of_part:
            raise DataError(
                f"{', '.join(str(path) for path in files)}: of {len(distinct)} distinct rows none "
                f"falls into the {SAID[name]} part; give more rows"
            )
    return InstructionData(
        train=tuple(parts["train"]),
        val=tuple(parts["val"]),
        test=tuple(parts["test"]),
        rows=rows,
        duplicates=rows - without - len(distinct),
        sources=tuple(sources),
        without_passage=without,
        split_rule=SPLIT_RULE + TEST_RULE if test else SPLIT_RULE,
        unused=tuple(unused),
    )


def _times(row: Instruction, repeat: float) -> int:
    """How often an epoch has the row."""
    whole = int(repeat)
    return whole + (hash_fraction(f"repeat\n{row.identity}") < repeat - whole)


def part_of(identity: str) -> Part:
    """The part that a question belongs to, whatever its answers are."""
    fraction = hash_fraction(identity)
    late: Part = "val" if fraction < _VAL_BELOW else "train"
    return "test" if fraction < _TEST_BELOW else late


def read_instructions(path: Path) -> Iterator[Instruction]:
    """All rows of one file. Rows are counted from 1.

    Raises:
        DataError: see `load_instructions`.
    """
    if Path(path.name.removesuffix(".xz")).suffix == ".jsonl":
        for number, line in enumerate(read_text(path).removeprefix("\ufeff").split("\n"), start=1):
            if line.strip():
                yield _instruction(_object(line, path, number), f"{path}: line {number}")
        return
    for number, row in enumerate(json_rows(path), start=1):
        yield _instruction(row, f"{path}: row {number}")


def _object(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error


def json_rows(path: Path) -> list[Any]:
    """What the list of a JSON file holds.

    Raises:
        DataError: it is no JSON, or no list, or empty.
    """
    try:
        rows = json.loads(read_text(path).removeprefix("\ufeff"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: must hold a list of objects")
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows


def _instruction(row: Any, where: str) -> Instruction:
    if isinstance(row, dict) and "messages" in row:
        return _chat(row["messages"], where)
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is not an object with `instruction`, `input` and `output`, or `messages`"
        )
    values = {"input": "", "kind": "", "unique": True, "accept": [], **row}
    for name in ("instruction", "input", "output"):
        if not isinstance(values.get(name), str):
            raise DataError(f"{where} has no {name} that is a string")
        if name != "input" and not values[name].strip():
            raise DataError(f"{where} has an empty {name}")
    kind, unique, accept = values["kind"], values["unique"], values["accept"]
    return Instruction(
        values["instruction"],
        values["input"],
        values["output"],
        kind if isinstance(kind, str) else "",
        unique is not False,
        tuple(map(str, accept)) if isinstance(accept, list) else (),
    )


def _chat(messages: Any, where: str) -> Instruction:
    """One turn of each side, with or without a system turn in front."""
    turns: list[Any] = messages if isinstance(messages, list) else [None]
    for number, turn in enumerate(turns, start=1):
        if not (isinstance(turn, dict) and isinstance(turn.get("content"), str)):
            raise DataError(f"{where}: message {number} has no content that is a string")
        if not turn["content"].strip():
            raise DataError(f"{where} has an empty message, number {number}")
    roles = [turn.get("role") for turn in turns]
    system = roles[:1] == ["system"]
    if roles[system:] != ["user", "assistant"]:
        raise DataError(
            f"{where} has messages of {', '.join(map(str, roles)) or 'nobody'}; one turn of the "
            "user and one of the assistant can be learnt, with a system turn in front or without: "
            "make a row of each answer"
        )
    asked = "\n\n".join(turn["content"] for turn in turns[:-1])
    return Instruction(asked, "", turns[-1]["content"])
