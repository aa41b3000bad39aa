"""Rows that are named on stderr, so that nothing is left out or cut in silence."""

import sys
from collections.abc import Sequence

NAMED = 5
"""So many rows at most; the others are counted."""
SHOWN = 60
"""Characters of a row's text."""


def name_rows(heading: str, rows: Sequence[str]) -> None:
    """Print `heading`, which counts them, and a line on each of the first rows."""
    print(f"{heading}:", *first(rows), sep="\n  ", file=sys.stderr)


def first(rows: Sequence[str]) -> list[str]:
    """The first of them, and a sign that there are more."""
    return [*rows[:NAMED], *(["…"] if len(rows) > NAMED else [])]
