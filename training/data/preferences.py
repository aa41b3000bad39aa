"""Pairs of answers of which one is preferred, in the form of the book and in those of TRL.

A record (see `training.data.records`) has `instruction`, `input` (may be empty or missing),
`chosen` and `rejected`; or `prompt` in place of the first two. In TRL's conversational forms,
`prompt` is a list of messages and the answers are one each; or the answers are whole conversations
that share their beginning, which is then the prompt. Other fields are left alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from model.errors import DataError
from model.prompts import Message
from model.prompts.parts import Role
from training.data.chats import roles, turns
from training.data.conversations import Instruction
from training.data.documents import text_hash
from training.data.files import Source, read_file
from training.data.given import NONE_GIVEN, Given, among
from training.data.instructions import part_of
from training.data.records import LeftOut, Record, is_null, read_records, usable
from training.data.splits import NOTHING, SAID, Part, Parts
from training.data.tables import Columns

SPLIT_RULE = (
    "pairs with equal answers, and repeated pairs (case and spacing aside), dropped; then by the "
    "SHA-256 of the normalised instruction and input as a fraction, as in instruction tuning: "
    "below 0.10 test, below 0.15 validation, else training"
)

_ANSWERS = ("chosen", "rejected")
_ASKED = ("instruction", "prompt")
_COLUMNS = Columns(
    _ANSWERS,
    fields="`instruction`, `input`, `chosen` and `rejected`, or `prompt`, `chosen` and `rejected`",
    optional=("instruction", "input", "prompt"),
)
_NAMED = 10  # how many rows a message names at most


@dataclass(frozen=True)
class Preference:
    """One task with the answer that is preferred and the one that is not."""

    instruction: str
    input: str
    chosen: str
    rejected: str
    earlier: tuple[Message, ...] = ()
    """What was said before, in a chat."""

    @property
    def question(self) -> Instruction:
        """The task with the preferred answer."""
        return Instruction(self.instruction, self.input, self.chosen, earlier=self.earlier)

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
    """Name, SHA-256 and rows of each file, with what `--val` and `--test` make of it."""
    split_rule: str = SPLIT_RULE
    unused: tuple[Preference, ...] = ()
    """Of no part: on a question that is set apart; or set apart, and a base has learnt it."""

    def parts(self) -> Parts:
        """Which question is where."""
        parts = Parts()
        parts.add("train", (row.question.identity for row in self.train))
        parts.add("val", (row.question.identity for row in self.val))
        parts.add("test", (row.question.identity for row in self.test))
        parts.add("unused", (row.question.identity for row in self.unused))
        return parts


def load_preferences(
    paths: Sequence[Path],
    *,
    given: Given = NONE_GIVEN,
    known: Parts = NOTHING,
    encoding: str | None = None,
) -> PreferenceData:
    """Read, drop what teaches nothing, and split.

    Args:
        given: files that are set apart.
        known: parts of the training that this one goes on from; what it learnt is not tested.
        encoding: of the files, if they are not in UTF-8.

    Raises:
        UsageError: a file is to test and to validate.
        DataError: a file cannot be used, or a part would be empty; names file and row.
    """
    files = given.files(paths)
    distinct: dict[str, tuple[Preference, bool]] = {}  # and whether it is set apart
    places: dict[str, set[Part]] = {}  # to which parts the pairs of a question may come
    apart: set[str] = set()  # the groups of the questions that are set apart
    sources: list[dict[str, object]] = []
    equal_at: list[str] = []
    rows = equal = 0
    for file in files:
        path, content = file.path, read_file(file.path, encoding)
        found = read_preferences(content)
        same = [number for number, row in enumerate(found, 1) if row.equal]
        if same:
            more = ", …" if len(same) > _NAMED else ""
            equal_at.append(f"{path}: row {', '.join(map(str, same[:_NAMED]))}{more}")
        for row in found:
            group = row.question.group
            if row.equal:
                continue
            texts = (row.question.identity, row.chosen, row.rejected)
            distinct.setdefault(" ".join(map(text_hash, texts)), (row, file.set_apart))
            may = places.setdefault(group, set(file.parts))
            if not file.set_apart and group not in apart:
                may.update(file.parts)
        if file.set_apart:
            apart |= {row.question.group for row in found}
        equal += len(same)
        rows += len(found)
        sources.append({**content.source, "rows": len(found), **file.source()})
    parts: dict[str, list[Preference]] = {"train": [], "val": [], "test": []}
    unused: list[Preference] = []
    for _, (row, set_apart) in sorted(distinct.items(), key=lambda item: item[0]):
        question = row.question
        wanted = among(places[question.group], part_of(question.group))
        part = known.after(wanted, question.identity, question.group)
        of_apart = question.group in apart
        if of_apart and (part != wanted or not set_apart):
            unused.append(row)
        else:
            parts[part].append(row)
    for name, some in parts.items():
        if not some:
            raise DataError(
                f"{', '.join(str(file.path) for file in files)}: of {len(distinct)} distinct pairs "
                f"with two different answers, none falls into the {SAID[name]} part, or what the "
                "training goes on from has learnt them; give more rows"
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
        split_rule=SPLIT_RULE + given.rule(),
        unused=tuple(unused),
    )


def read_preferences(source: Source, encoding: str | None = None) -> list[Preference]:
    """All rows of one file.

    Raises:
        DataError: see `load_preferences`.
    """
    return [row for _, row in usable(read_records(source, _COLUMNS, encoding), _pair)]


def _pair(record: Record) -> Iterator[Preference]:
    fields = record.fields
    record.check_present(*_ANSWERS)
    if any(isinstance(fields.get(name), list) for name in ("prompt", *_ANSWERS)):
        yield _of_messages(record)
        return
    asked = next((n for n in _ASKED if not is_null(fields.get(n))), None)
    if asked is None:
        record.check_present(*_ASKED)
        asked = "instruction"
    texts = {name: record.string(name) for name in (asked, *_ANSWERS)}
    for name, text in texts.items():
        if not text.strip():
            raise DataError(f"{record.where} has an empty {name}")
    given = "" if is_null(fields.get("input")) else record.string("input")
    yield Preference(texts[asked], given, texts["chosen"], texts["rejected"])


def _of_messages(record: Record) -> Preference:
    """A pair in a conversational form.

    Raises:
        LeftOut: an answer is no single message of the assistant's, to one of the user's.
    """
    prompt = record.fields.get("prompt")
    chosen, rejected = (_messages(record, name, "assistant") for name in _ANSWERS)
    before = _messages(record, "prompt", "user") if prompt is not None else []
    both = takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected[:-1], strict=False))
    if shared := [message for message, _ in both]:
        # They are whole conversations; a prompt beside them is their beginning once more.
        before, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
    if roles(before[-1:]) != "user" or not roles(chosen) == roles(rejected) == "assistant":
        raise LeftOut(
            f"to messages of {roles(before)}, its answers are of {roles(chosen)}, and of "
            f"{roles(rejected)}; they must be one of the assistant each, to one of the user"
        )
    for name, said in (("prompt", before), ("chosen", chosen), ("rejected", rejected)):
        if not said[-1].content.strip():
            raise LeftOut(f"its {name} is empty")
    row = Instruction.answering(before, chosen[0].content)
    return Preference(row.instruction, "", row.output, rejected[0].content, row.earlier)


def _messages(record: Record, name: str, role: Role) -> list[Message]:
    """A field that is a list of messages, or the text of one."""
    if isinstance(record.fields.get(name), list):
        return turns(record.fields[name], f"{record.where}: {name}")
    return [Message(role, record.string(name))]
