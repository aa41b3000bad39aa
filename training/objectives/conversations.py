"""Conversations as tokens, with a mask of what is learnt: what the assistant says, and the token
that ends its turn.

The mask comes from the template (`model.prompts`), never from comparing tokens: the padding may be
the very token that ends a turn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from model import prompts
from model.errors import UsageError
from model.prompts import Message, Template
from model.tokenizer import Tokenizer
from training.data.conversations import Instruction
from training.data.encodable import encodable
from training.data.lengths import TooLong
from training.data.naming import SHOWN, name_rows
from training.loop.task import IGNORE, Batch, pad_rows

Row = TypeVar("Row")
Form = TypeVar("Form")


@dataclass(frozen=True)
class Conversation:
    """One row as tokens, of which the last one is learnt, unless the row was cut."""

    tokens: tuple[int, ...]
    learnt: tuple[bool, ...]
    """Of each token, whether it is."""

    @property
    def targets(self) -> int:
        """How many tokens are learnt; nothing comes before the first one, to predict it."""
        return sum(self.learnt[1:])

    def cut(self, limit: int) -> "Conversation":
        """Its first `limit` tokens."""
        return Conversation(self.tokens[:limit], self.learnt[:limit])


@dataclass(frozen=True)
class Conversations:
    """Encoded rows."""

    found: tuple[Conversation, ...]
    rows: tuple[Instruction, ...]
    """What they are made of."""
    too_long: tuple[TooLong, ...] = ()
    """Rows that are left out, or cut."""

    def __len__(self) -> int:
        return len(self.found)


def tokens_of(
    messages: Sequence[Message], tokenizer: Tokenizer, template: Template
) -> Conversation:
    """A conversation up to what ends its last answer.

    Raises:
        UsageError: the template has no form for it.
    """
    encoded = prompts.encode(template.render(messages, answer=False), tokenizer)
    if True not in encoded.said:
        raise UsageError("the assistant says nothing in it that could be learnt")
    end = len(encoded.said) - encoded.said[::-1].index(True)
    return Conversation(tuple(encoded.ids[:end]), tuple(encoded.said[:end]))


def encode(
    rows: Sequence[Instruction],
    tokenizer: Tokenizer,
    limit: int,
    template: Template,
    *,
    cut: bool = False,
) -> Conversations:
    """Tokens of each row. What is learnt are its output and the answers before it; see `joined`.

    Args:
        limit: tokens of a row. A longer one is left out: cut, it would teach an answer without its
            end.
        cut: cut longer ones nevertheless, but for those of which nothing would be learnt.
    """

    def form(row: Instruction) -> Conversation:
        return tokens_of([*row.messages, Message("assistant", row.output)], tokenizer, template)

    found, kept, long = [], [], []
    rows = encodable(rows, lambda row: row.texts, tokenizer)
    for row, conversation in formed(rows, form, lambda row: row.instruction, template):
        size = len(conversation.tokens)
        if size > limit:
            long.append(TooLong(row.instruction, size))
            conversation = conversation.cut(limit)
            if not cut or not conversation.targets:
                continue
        found.append(conversation)
        kept.append(row)
    return Conversations(tuple(found), tuple(kept), tuple(long))


def formed(
    rows: Sequence[Row], form: Callable[[Row], Form], text: Callable[[Row], str], template: Template
) -> Iterator[tuple[Row, Form]]:
    """Each row with what `form` makes of it; those that the template has no form for are named on
    stderr, once all are done.

    Args:
        form: raises `UsageError` for one of these.
        text: of a row, to name it by.
    """
    refused: list[str] = []
    for row in rows:
        try:
            yield row, form(row)
        except UsageError as error:
            refused.append(f"{text(row)[:SHOWN]!r}: {error}")
    if refused:
        name_rows(
            f"{len(refused)} of {len(rows)} rows are left out, as the {template.name} template has "
            "no form for them",
            refused,
        )


def joined(conversations: Conversations) -> Conversations:
    """Without those that are the beginning of another one, in which the same tokens are learnt.

    Each answer of a chat is a row. With a template that leaves earlier turns as they are, the last
    row holds all answers before it, so that one pass learns them all; where the template writes
    them otherwise (Qwen3 drops earlier thoughts, Alpaca makes them an input), each is learnt alone.
    """
    holds: dict[Conversation, Instruction] = {}
    pairs = list(zip(conversations.found, conversations.rows, strict=True))
    for whole, row in pairs:
        for end in _ends(whole):
            if end < len(whole.tokens):
                holds.setdefault(whole.cut(end), row)
    kept = [(whole, row) for whole, row in pairs if whole not in holds]
    return Conversations(
        tuple(whole for whole, _ in kept), tuple(row for _, row in kept), conversations.too_long
    )


def _ends(conversation: Conversation) -> Iterator[int]:
    """Where the assistant ends to speak."""
    learnt = (*conversation.learnt, False)
    return (at for at in range(1, len(learnt)) if learnt[at - 1] and not learnt[at])


def last_answer(conversation: Conversation) -> Conversation:
    """The same, of which only the last answer is learnt: to measure each answer once."""
    end = list(_ends(conversation))[-1]
    start = end
    while start and conversation.learnt[start - 1]:
        start -= 1
    own = [start <= at < end for at in range(len(conversation.tokens))]
    return Conversation(conversation.tokens, tuple(own))


def pad(conversations: Sequence[Conversation], padding: int, device: torch.device) -> Batch:
    """Inputs, and as targets the next token wherever it is learnt."""
    inputs, lengths = pad_rows([each.tokens[:-1] for each in conversations], padding, device)
    targets, _ = pad_rows([targets_of(each) for each in conversations], IGNORE, device)
    return Batch(inputs, targets, lengths, count=sum(each.targets for each in conversations))


def targets_of(conversation: Conversation) -> list[int]:
    """What is predicted at each token but the last one."""
    pairs = zip(conversation.tokens[1:], conversation.learnt[1:], strict=True)
    return [token if learnt else IGNORE for token, learnt in pairs]
