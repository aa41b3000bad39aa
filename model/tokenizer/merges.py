"""A byte-level BPE vocabulary as Hugging Face and GGUF write one, and where tiktoken agrees.

Their files list the pairs that are merged, in order. tiktoken knows ids only: it merges any two
neighbours that make a token together, the lowest id first. Where both come to the same tokens,
tiktoken is used, because it is several times as fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.errors import CheckpointError
from model.json_files import shown
from model.tokenizer.alphabet import byte_of_character
from model.tokenizer.patterns import KNOWN_PATTERNS


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before the text is cut into pieces, and shown as text."""

    id: int
    normalized: bool
    """Whether it is looked for after normalization."""


@dataclass(frozen=True)
class BytePairs:
    """What turns ordinary text into tokens.

    Raises:
        CheckpointError: a token is not written in the characters of `alphabet`, or a merge is no
            pair of tokens that makes one; names it.
    """

    tokens: Mapping[str, int]
    """Ids of the tokens that merges and bytes make, written in the characters of `alphabet`."""
    merges: Sequence[tuple[str, str]]
    """Pairs of tokens, the first to be merged first."""
    pattern: str
    """Cuts text into the pieces within which pairs are merged."""
    nfc: bool = False
    """Whether text is brought into Unicode's composed form before."""
    ignore_merges: bool = False
    """Whether a piece that is a token becomes that token, whatever the merges say."""
    added: Mapping[str, AddedToken] = field(default_factory=dict)
    """Added tokens by their text."""

    def __post_init__(self) -> None:
        alphabet, known = frozenset(byte_of_character()), self.tokens
        for token in known:
            if not token or not alphabet.issuperset(token):
                raise CheckpointError(
                    f"the token {shown(token)} is not written in the characters of GPT-2's files"
                )
        if "" in self.added:
            raise CheckpointError("an added token has no text")
        for left, right in self.merges:
            if left not in known or right not in known or left + right not in known:
                raise CheckpointError(
                    f"the merge {shown(f'{left} {right}')} is no pair of ordinary tokens that "
                    "makes one"
                )

    @classmethod
    def of(
        cls,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        pattern: str,
        special: Mapping[str, int],
        *,
        nfc: bool = False,
        ignore_merges: bool = False,
        added: Mapping[str, AddedToken] | None = None,
    ) -> "BytePairs":
        """The same of a vocabulary that may also hold the special and the added tokens.

        Raises:
            CheckpointError: as of the class; or a token has another id in the vocabulary, or a
                special token is a single byte's.
        """
        added = added or {}
        further = {**{text: token.id for text, token in added.items()}, **special}
        for text, token in further.items():
            if vocabulary.get(text, token) != token:
                raise CheckpointError(
                    f"the token {shown(text)} has the id {token}, but {vocabulary[text]} in the "
                    "vocabulary"
                )
            if text in special and text in vocabulary and text in byte_of_character():
                raise CheckpointError(f"the special token {text!r} is that of a byte")
        tokens = {text: token for text, token in vocabulary.items() if text not in further}
        return cls(tokens, merges, pattern, nfc, ignore_merges, added)


def same_in_tiktoken(pairs: BytePairs) -> bool:
    """Whether tiktoken gives every text the tokens that these merges give.

    It does where each token is made by one listed pair, the ids rise with the merges, and merging
    the bytes of each token by the lower ids alone leaves that pair. Then whenever the lowest id of
    all neighbours is a token's, the two parts are the token's listed pair: the boundaries at both
    ends of it still stand, so what lies between them was merged as if it stood alone. And a piece
    that is a token is made whole by the merges, as tiktoken makes it, `ignore_merges` or not.
    """
    if pairs.nfc or pairs.added or pairs.pattern not in KNOWN_PATTERNS:
        return False
    made_of: dict[str, tuple[str, str]] = {}
    last = -1
    for left, right in pairs.merges:
        token = left + right
        rank = pairs.tokens[token]
        if (
            rank <= last
            or (len(left) > 1 and left not in made_of)
            or (len(right) > 1 and right not in made_of)
            or _is_crossed(left, right, rank, pairs.tokens, made_of)
        ):
            return False
        made_of[token] = (left, right)
        last = rank
    return all(len(token) == 1 or token in made_of for token in pairs.tokens)


def _is_crossed(
    left: str,
    right: str,
    rank: int,
    ranks: Mapping[str, int],
    made_of: Mapping[str, tuple[str, str]],
) -> bool:
    """Whether a merge with a lower id than `rank` joins the end of `left` to the beginning of
    `right` before each of the two is whole.

    Args:
        made_of: the pair of each token with a lower id.
    """
    # From the whole to a byte: the tokens that come to lie left and right of the boundary.
    ends, starts = [left], [right]
    while left in made_of:
        left = made_of[left][1]
        ends.append(left)
    while right in made_of:
        right = made_of[right][0]
        starts.append(right)
    ends_last = [rank, *(ranks[token] for token in ends[:-1])]
    starts_last = [rank, *(ranks[token] for token in starts[:-1])]
    # From bytes up: the merge until which each lasts.
    while len(ends) > 1 or len(starts) > 1:
        joined = ranks.get(ends[-1] + starts[-1], rank)
        end_lasts, start_lasts = ends_last[-1], starts_last[-1]
        # Of merges into the same token the leftmost is first.
        if joined < min(end_lasts, start_lasts) or joined == start_lasts < end_lasts:
            return True
        if end_lasts <= start_lasts:
            ends.pop()
            ends_last.pop()
        else:
            starts.pop()
            starts_last.pop()
    return False
