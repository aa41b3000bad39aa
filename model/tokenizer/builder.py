"""A tokenizer from what another program's files say of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import CheckpointError
from model.tokenizer.special import SpecialTokens
from model.tokenizer.tokenizer import Tokenizer
from model.tokenizer.vocabulary import Vocabulary


def build(
    vocabulary: Vocabulary,
    source: Path,
    ids: Mapping[str, int],
    *,
    beginning: int | None = None,
    adds_beginning: bool = False,
    ends: Sequence[int] = (),
    end_of_turn: int | None = None,
    pad: int | None = None,
) -> Tokenizer:
    """The tokenizer of a vocabulary.

    Args:
        source: the file that it comes from, for errors.
        ids: of all special tokens; the rest says what they are for, as in `SpecialTokens.of`.

    Raises:
        CheckpointError: the vocabulary contradicts itself, or lacks something; names `source`.
    """
    try:
        special = SpecialTokens.of(
            ids,
            beginning=beginning,
            adds_beginning=adds_beginning,
            ends=ends,
            end_of_turn=end_of_turn,
            pad=pad,
        )
        return Tokenizer.of_pairs(vocabulary.pairs(special.ids), special)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
