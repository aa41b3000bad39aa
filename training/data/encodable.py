"""Rows that a tokenizer has no tokens for.

Some vocabularies lack bytes: SmolLM2's has no token for 21 of the 256. A row with a character that
needs one cannot be learnt as it stands; it is left out, and said to be, never changed in silence.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from model.errors import DataError, TextError
from model.tokenizer import Tokenizer
from training.data.naming import SHOWN, first, name_rows

Row = TypeVar("Row")


def encodable(
    rows: Sequence[Row],
    texts: Callable[[Row], Iterable[str]],
    tokenizer: Tokenizer,
    noun: str = "rows",
) -> list[Row]:
    """Those of `rows` that have tokens for all their characters; the others are named on stderr.

    Args:
        texts: of a row.
        noun: what the rows are, for the message.
    """
    kept, refused = _sorted_out(rows, texts, tokenizer)
    if refused:
        name_rows(
            f"{len(refused)} of {len(rows)} {noun} are left out, as they cannot be tokenized",
            refused,
        )
    return kept


def check_encodable(texts: Sequence[str], tokenizer: Tokenizer) -> None:
    """Refuse texts of which some cannot be tokenized, where each of them counts: in a measurement.

    Raises:
        DataError: says how many they are and names the first.
    """
    _, refused = _sorted_out(texts, lambda text: [text], tokenizer)
    if refused:
        raise DataError(
            f"{len(refused)} of {len(texts)} texts cannot be tokenized; take them out of the data: "
            + "; ".join(first(refused))
        )


def _sorted_out(
    rows: Sequence[Row], texts: Callable[[Row], Iterable[str]], tokenizer: Tokenizer
) -> tuple[list[Row], list[str]]:
    """The rows that can be tokenized, and a line on each of the others."""
    if not tokenizer.missing_bytes:
        return list(rows), []
    kept: list[Row] = []
    refused: list[str] = []
    for row in rows:
        try:
            for text in texts(row):
                tokenizer.encode(text)
            kept.append(row)
        except TextError as error:
            refused.append(f"{next(iter(texts(row)), '')[:SHOWN]!r}: {error}")
    return kept, refused
