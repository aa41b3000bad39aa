"""Instructions with their responses: the form of the book and of Alpaca, and chats.

A record (see `training.data.records`) has `instruction`, `input` (may be empty or missing) and
`output`; `kind` names what is asked for, `accept` lists other right outputs, and `unique: false`
says that there are more. Or it has a chat, in a form of `training.data.chats`: each answer in it
makes a row, with what was said before. Other fields are left alone.

A row without an input that asks about a passage, an article or a reference text cannot be
answered: it is left out, and counted.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from model.errors import DataError
from model.prompts import Message
from training.data.chats import CHATS, chat, roles
from training.data.files import Source
from training.data.records import LeftOut, Record, checked, is_null, read_records, usable
from training.data.tables import Columns

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
    earlier: tuple[Message, ...] = ()
    """What was said before, in a chat."""

    @classmethod
    def answering(cls, messages: Sequence[Message], output: str) -> "Instruction":
        """The row of an answer to the last of `messages`, which is the user's."""
        return cls(messages[-1].content, "", output, earlier=tuple(messages[:-1]))

    @property
    def messages(self) -> list[Message]:
        """All that is said up to the question."""
        return [*self.earlier, Message("user", self.instruction, self.input)]

    @property
    def texts(self) -> list[str]:
        """All that a tokenizer must have tokens for, the question first."""
        return [*(message.content for message in reversed(self.messages)), self.output]

    @property
    def identity(self) -> str:
        """What makes two rows the same question."""
        if self._opens:
            said = [
                message.content for message in (*self.earlier, Message("user", self.instruction))
            ]
            return "\n".join(["\n\n".join(said), self.input])
        said = [f"{message.role}: {message.content}" for message in self.earlier]
        return "\n".join([*said, self.instruction, self.input])

    @property
    def group(self) -> str:
        """What rows share that must be in one part of the data: the first question of their chat,
        or the question itself."""
        if self._opens:
            return self.identity
        asked = [message for message in self.messages if message.role != "assistant"]
        first = [message.role for message in asked].index("user")
        return "\n\n".join(message.content for message in asked[: first + 1]) + "\n"

    @property
    def _opens(self) -> bool:
        """Whether it is the first question of its chat; a system turn is a part of that."""
        return all(message.role == "system" for message in self.earlier)

    @property
    def needs_a_passage(self) -> bool:
        """Whether it asks about a text that is not there."""
        bare = not (self.input.strip() or self.earlier) and len(self.instruction) < _SHORT
        return bare and "\n" not in self.instruction.strip() and _asks_about_text(self.instruction)


def _asks_about_text(instruction: str) -> bool:
    found = _PASSAGE.search(instruction)
    return found is not None and not _THERE.search(instruction)


def read_instructions(source: Source, encoding: str | None = None) -> Iterator[Instruction]:
    """All rows of one file.

    Raises:
        DataError: see `load_instructions`.
    """
    for _, row in usable(read_records(source, _COLUMNS, encoding), _rows):
        yield row


_COLUMNS = Columns(
    ("instruction", "output"),
    fields="`instruction`, `input` and `output`, or a chat",
    optional=("input", "kind", "accept", "unique", *CHATS, "system"),
)


def _rows(record: Record) -> Iterator[Instruction]:
    if (messages := chat(record)) is not None:
        yield from _answers(messages)
        return
    record.check_present(
        "instruction", "output", *({} if "instruction" in record.fields else CHATS)
    )
    texts = {name: record.string(name) for name in ("instruction", "output")}
    for name, text in texts.items():
        if not text.strip():
            raise DataError(f"{record.where} has an empty {name}")
    given = "" if is_null(record.fields.get("input")) else record.string("input")
    yield Instruction(
        texts["instruction"],
        given,
        texts["output"],
        "" if is_null(record.fields.get("kind")) else record.string("kind", numbers=True),
        _unique(record),
        _accept(record),
    )


def _unique(record: Record) -> bool:
    """Whether no other response is right; in a table, it is a word.

    Raises:
        DataError: it says neither.
    """
    value = record.fields.get("unique")
    word = str(value).strip().lower()
    if is_null(value) or word in ("true", "false", ""):
        return word != "false"
    raise DataError(f"{record.where}: unique is {value!r}; it must be true or false")


def _accept(record: Record) -> tuple[str, ...]:
    """Other right responses: a list, also as JSON in a cell of a table, or a single one.

    Raises:
        DataError: it is none of these.
    """
    value = record.fields.get("accept")
    if is_null(value) or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except ValueError as error:
            raise DataError(f"{record.where}: accept is no JSON list: {error}") from error
    if not isinstance(value, list):
        raise DataError(f"{record.where}: accept is {value!r}; it must be a list")
    return tuple(checked(str(text), record.where, "accept") for text in value)


def _answers(messages: Sequence[Message]) -> Iterator[Instruction]:
    """A row of each answer.

    Raises:
        LeftOut: there is no answer to the user; or, after the rows, there are answers to nothing.
    """
    answers = [at for at, message in enumerate(messages) if message.said]
    rows = [at for at in answers if at and messages[at - 1].role == "user"]
    if not rows:
        ignored = any(message.role == "assistant" and not message.learnt for message in messages)
        raise LeftOut(
            f"it has messages of {roles(messages)}; a turn of the assistant "
            + "that has not the weight 0 " * ignored
            + "must follow one of the user"
        )
    # A conversation that goes on is learnt as a whole, of which what is no row is not learnt.
    for at in set(answers) - set(rows):
        messages = [*messages[:at], replace(messages[at], learnt=False), *messages[at + 1 :]]
    for at in rows:
        yield Instruction.answering(messages[:at], messages[at].content)
    if others := sorted(set(answers) - set(rows)):
        numbers = ", ".join(str(at + 1) for at in others)
        raise LeftOut(f"message {numbers} of {len(messages)} answers no message of the user")
