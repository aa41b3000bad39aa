"""How long a row may be, and what becomes of a longer one.

A base whose context is 8,192 or 131,072 tokens would else let one long row decide how much memory a
step takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import UsageError
from training.data.naming import SHOWN, name_rows

MOST = 1024
"""Tokens of a row unless something else is asked for."""


@dataclass(frozen=True)
class Lengths:
    """Each field is a flag."""

    max_length: int | None = None
    """Tokens of a row; by default 1,024, or the context of the base where that is less."""
    cut: bool = False
    """Whether longer rows lose their end; else they are left out, and named."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise UsageError(f"--max-length is {self.max_length}; it must be at least 2")

    def limit(self, context: int) -> int:
        """Tokens of a row on a base with this context.

        Raises:
            UsageError: the context is shorter than what is asked for.
        """
        if self.max_length is None:
            return min(MOST, context)
        if self.max_length > context:
            raise UsageError(
                f"--max-length is {self.max_length}; it must be at most {context}, the context of "
                "the base"
            )
        return self.max_length


@dataclass(frozen=True)
class TooLong:
    """A row that is left out, or cut."""

    text: str
    tokens: int


def report_too_long(rows: Sequence[TooLong], limit: int, noun: str, *, cut: bool) -> None:
    """Name rows (or what `noun` calls them) that are longer than `limit`, on stderr."""
    if not rows:
        return
    what = "cut at their end" if cut else "left out (--cut would cut them)"
    name_rows(
        f"{len(rows)} {noun} are longer than {limit:,} tokens (--max-length), and {what}",
        [f"{row.text[:SHOWN]!r}: {row.tokens:,} tokens" for row in rows],
    )
