"""Characters of no text, by which a special token of a template is told from a user's text.

A template joins texts, so that in what it renders nobody can see who wrote what. Therefore each
special token's text in a message is broken by a filler, a character for private use that is nowhere
else, before it is rendered; afterwards all whole ones are the template's, and the filler is taken
out again.

That leaves texts that become one only where two are joined (`<|im_`, `end|>`), or where a template
cuts something out of a text. What a template writes of texts that have fillers wherever a special
token could begin or end (`tainted`) shows whether there are such: it then has other special tokens.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from model.errors import UsageError

_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))

_SCHEMA = frozenset(
    (
        *("function", "name", "description", "parameters", "return", "properties", "required"),
        *("type", "object", "array", "string", "number", "integer", "boolean", "null", "items"),
        *("enum", "arguments", "id"),
    )
)
"""Words that templates look for in the description of a tool, or in a call."""


def written(values: Any) -> str:
    """All texts in anything that JSON has a form for, as `unused_characters` looks through them."""
    return json.dumps(values, ensure_ascii=False).lower()


def unused_characters(texts: Sequence[str], count: int) -> list[str]:
    """Characters for private use that nothing has, neither as they are nor as JSON escapes them.

    Args:
        texts: as of `written`.

    Raises:
        UsageError: there are too few; the texts have all the others.
    """
    found: list[str] = []
    for code in (code for codes in _PRIVATE_USE for code in codes):
        if not any(form in text for form in (chr(code), _escape(chr(code))) for text in texts):
            found.append(chr(code))
        if len(found) == count:
            return found
    raise UsageError("the messages hold every character for private use; a template needs a few")


def without(text: str, filler: str) -> str:
    """The text without the filler, as itself or as JSON writes it."""
    return text.replace(filler, "").replace(_escape(filler), "")


def _escape(character: str) -> str:
    return json.dumps(character)[1:-1]


def in_texts(values: Any, change: Callable[[str], str]) -> Any:
    """`values` with each text changed, keys included."""
    if isinstance(values, str):
        return change(values)
    if isinstance(values, dict):
        return {change(key): in_texts(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [in_texts(value, change) for value in values]
    return values


class SpecialTexts:
    """The texts of special tokens, of two characters at least, and what is done where they are."""

    def __init__(self, special: Sequence[str]) -> None:
        longest_first = sorted(special, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        """Matches the longest that there is at a place, as tokenizers do."""
        borders = sorted({character for token in special for character in (token[0], token[-1])})
        self._borders = re.compile("|".join(map(re.escape, borders)) or "(?!)")
        self._special = special

    def broken(self, text: str, filler: str) -> str:
        """The text with the filler behind the first character of each special token's text."""
        pieces, end = [], 0
        while match := self.pattern.search(text, end):
            pieces += [text[end : match.start() + 1], filler]
            end = match.start() + 1
        return "".join([*pieces, text[end:]])

    def tainted(self, text: str, filler: str) -> str:
        """The text with fillers so that nothing of it can begin or end a special token, turned
        around or not, nor all of it be the middle of one."""
        whole = self._borders.sub(lambda match: filler + match[0] + filler, text)
        core = text.strip()
        inside = core and any(core in token for token in self._special)
        return whole + (filler if inside else "")

    def tainted_tool(self, text: str, filler: str) -> str:
        """`tainted`, for a text in the description of a tool, or in a call."""
        return text if text in _SCHEMA else self.tainted(text, filler)
