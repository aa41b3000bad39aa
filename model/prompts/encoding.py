"""Parts to token ids, with a mask of what the assistant says."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from model.prompts.parts import Part, Special, Text


class SpecialIds(Protocol):
    """What is asked of a tokenizer's special tokens."""

    @property
    def ids(self) -> Mapping[str, int]: ...
    @property
    def beginning(self) -> int | None: ...
    @property
    def adds_beginning(self) -> bool: ...
    @property
    def end_of_document(self) -> int: ...


class ChatTokenizer(Protocol):
    """What is asked of a tokenizer."""

    @property
    def special(self) -> SpecialIds: ...
    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Encoded:
    """Token ids, and of each whether the assistant says it and a model learns to."""

    ids: list[int]
    said: list[bool]


def encode(parts: Iterable[Part], tokenizer: ChatTokenizer) -> Encoded:
    """Token ids of rendered parts.

    Neighbouring texts are encoded as one, as if the whole were a single text cut at its special
    tokens. Only where the assistant begins to speak is text cut, so that its tokens follow the very
    tokens that a prompt ends with. A tokenizer that puts a token at the beginning of each text has
    it once.

    Raises:
        TextError: a text cannot be tokenized.
        KeyError: the tokenizer lacks a token; `Template.check` refuses it before.
    """
    special = tokenizer.special
    ids: list[int] = []
    said: list[bool] = []
    for part in _joined(parts):
        if isinstance(part, Text):
            tokens = tokenizer.encode(part.text)
        elif isinstance(part, Special):
            tokens = [token_id(part.text, tokenizer)]
        else:
            tokens = [special.end_of_document]
        ids += tokens
        said += [part.said and part.learnt] * len(tokens)
    if special.adds_beginning and special.beginning is not None and ids[:1] != [special.beginning]:
        ids.insert(0, special.beginning)
        said.insert(0, False)
    return Encoded(ids, said)


def token_id(text: str, tokenizer: ChatTokenizer) -> int:
    """The id of a token by its text.

    Raises:
        KeyError: it is no special token, and no token that `text` encodes to either.
    """
    if text in tokenizer.special.ids:
        return tokenizer.special.ids[text]
    tokens = tokenizer.encode(text)
    if len(tokens) != 1:
        raise KeyError(text)
    return tokens[0]


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, with neighbouring texts as one unless only one of them is said."""
    for (is_text, *whose), group in groupby(parts, _kind):
        if is_text:
            yield Text("".join(part.text for part in group if isinstance(part, Text)), *whose)
        else:
            yield from group


def _kind(part: Part) -> tuple[bool, bool, bool]:
    # Text is cut in the same places, whether it is learnt or not.
    return isinstance(part, Text), part.said, part.learnt or not part.said
