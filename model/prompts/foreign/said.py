"""What the assistant says in a conversation, found out by rendering it in several ways.

A template renders a whole conversation, and says nothing of who says what, unless it has
`{% generation %}` blocks. But what a message of the assistant's adds to the prompt that asks for it
is what the model is to generate: the message, and the special token that ends its turn.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

Conversation = Sequence[dict[str, Any]]


class Render(Protocol):
    """A template with all but the messages given."""

    def __call__(
        self, messages: Conversation, answer: bool, marks: tuple[str, str] = ("", "")
    ) -> str: ...


class Span(NamedTuple):
    """A part of the rendered text that one message's author says."""

    start: int
    end: int
    message: int
    """Its index."""


def by_blocks(
    render: Render,
    messages: Conversation,
    answer: bool,
    text: str,
    marks: tuple[str, str],
    eos: str,
) -> list[Span]:
    """The spans that the template itself marks; none if it is not clear where or whose they are.

    Where a block is followed by the end-of-sequence token, that is said, too: without it, a model
    would never learn to stop.

    Args:
        text: what `render` makes of `messages` without marks.
        marks: two characters that are nowhere else.
    """
    authors = _authors(messages)
    pieces = re.split("[" + "".join(marks) + "]", render(messages, answer, marks))
    places = list(itertools.accumulate(map(len, pieces)))[:-1]
    spans = list(zip(places[::2], places[1::2], strict=False))
    # What is marked may be changed before it is written.
    if "".join(pieces) != text or len(places) % 2:
        return []
    if not authors or not spans or len(spans) % len(authors):
        return []
    found = []
    for number, (start, end) in enumerate(spans):
        ends = len(eos) if eos and text.startswith(eos, end) else 0
        found.append(Span(start, end + ends, authors[number * len(authors) // len(spans)]))
    return found


def by_prompts(
    render: Render,
    messages: Conversation,
    text: str,
    special: re.Pattern[str],
    mark: str,
    failures: tuple[type[Exception], ...],
) -> list[Span]:
    """Of each message of the assistant's, what follows the prompt that asks for it.

    A message has none if the prompt for it is not how the conversation with it begins, or if the
    turns after it change it: some templates leave the thoughts of earlier answers out.

    Args:
        text: what `render` makes of `messages`.
        special: matches the special tokens.
        mark: a character that is nowhere else.
        failures: what `render` raises when the template has no form for a conversation.
    """
    found = []
    for index in _authors(messages):
        try:
            span = _turn(render, messages[: index + 1], special, mark)
        except failures:
            continue
        if span is not None and text.startswith(span[1]):
            found.append(Span(span[0], len(span[1]), index))
    return found


def _turn(
    render: Render, messages: Conversation, special: re.Pattern[str], mark: str
) -> tuple[int, str] | None:
    """Where the last message begins, and the text up to its end."""
    *before, last = messages
    prompt = render(before, True) if before else ""
    whole = render(messages, False)
    if not prompt or not whole.startswith(prompt):
        return None
    for content in _marked(last["content"], mark):
        with_mark = render([*before, {**last, "content": content}], False)
        if mark in with_mark and with_mark.replace(mark, "") == whole:
            content_end = len(with_mark[: with_mark.rindex(mark)].replace(mark, ""))
            ends = special.search(whole, max(content_end, len(prompt)))
            # Where no special token ends a turn, whatever else the template writes there does.
            return len(prompt), whole[: ends.end()] if ends else whole
    return None


def _marked(content: str, mark: str) -> tuple[str, ...]:
    """The content with a mark where it ends, however a template strips it of white space."""
    core = content.rstrip()
    blank = content[len(core) :]
    return (core + mark + blank,) if core else (mark + blank, blank + mark, mark)


def _authors(messages: Conversation) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]
