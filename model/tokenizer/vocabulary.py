"""What another program's files say of a tokenizer, before the roles of special tokens are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.tokenizer.merges import AddedToken, BytePairs


@dataclass(frozen=True)
class Vocabulary:
    """All tokens, and how text is cut and merged into them."""

    tokens: Mapping[str, int]
    """Ids of ordinary tokens, in the characters of `alphabet`; perhaps of others as well."""
    merges: Sequence[tuple[str, str]]
    pattern: str
    nfc: bool = False
    ignore_merges: bool = False
    added: Mapping[str, AddedToken] = field(default_factory=dict)
    """Tokens that text encodes to before all else."""
    special: Mapping[str, int] = field(default_factory=dict)
    """Tokens that text never encodes to, as far as they are said to be."""
    beginning: str | None = None
    """The special token that is put before every text."""

    @property
    def every(self) -> dict[str, int]:
        """Ids of all tokens by their texts."""
        added = {text: token.id for text, token in self.added.items()}
        return {**self.tokens, **added, **self.special}

    def pairs(self, special: Mapping[str, int]) -> BytePairs:
        """What turns ordinary text into tokens, when these tokens are the special ones.

        Raises:
            CheckpointError: as of `BytePairs.of`.
        """
        return BytePairs.of(
            self.tokens,
            self.merges,
            self.pattern,
            special,
            nfc=self.nfc,
            ignore_merges=self.ignore_merges,
            added={text: token for text, token in self.added.items() if text not in special},
        )
