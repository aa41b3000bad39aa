"""When tiktoken, which knows ids alone, comes to the same tokens as a list of merges."""

import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest

from model.errors import CheckpointError
from model.tokenizer import GPT2_PATTERN, byte_of_character
from model.tokenizer.merges import AddedToken, BytePairs, same_in_tiktoken

ALPHABET = dict(byte_of_character())


def pairs_of(*merges: tuple[str, str], **more: Any) -> BytePairs:
    tokens = dict(ALPHABET)
    for pair in merges:
        tokens.setdefault("".join(pair), len(tokens))
    return BytePairs(**{"tokens": tokens, "merges": merges, "pattern": GPT2_PATTERN, **more})


def merged_below(ranks: Mapping[str, int], token: str, limit: int) -> list[str]:
    """What tiktoken makes of `token` with the lower ids alone."""
    parts = list(token)
    while len(parts) > 1:
        results = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        if min(results) >= limit:
            break
        at = results.index(min(results))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def test_the_short_proof_is_the_long_one() -> None:
    """Whether the bytes of each token, merged by lower ids, leave its listed pair."""
    found = []
    for seed in range(4000):
        chooser = random.Random(seed)
        pool, merges = list("ab" if seed % 2 else "abc"), []
        for _ in range(chooser.randint(1, 8)):
            pair = (chooser.choice(pool), chooser.choice(pool))
            if "".join(pair) not in pool:
                pool.append("".join(pair))
                merges.append(pair)
        pairs = pairs_of(*merges)
        wanted = all(
            merged_below(pairs.tokens, "".join(pair), pairs.tokens["".join(pair)]) == list(pair)
            for pair in merges
        )
        assert same_in_tiktoken(pairs) == wanted, merges
        found.append(wanted)
    assert 500 < sum(found) < 3500


@pytest.mark.parametrize(
    "pairs",
    [
        pairs_of(("a", "b"), ("b", "c"), ("a", "bc")),
        pairs_of(("a", "b"), ("a", "b")),
        pairs_of(("ab", "c"), ("a", "b")),
        pairs_of(("a", "b"), tokens={**ALPHABET, "ab": 256, "abc": 257}),
        pairs_of(("a", "b"), ("c", "d"), tokens={**ALPHABET, "ab": 257, "cd": 256}),
        pairs_of(("a", "b"), nfc=True),
        pairs_of(("a", "b"), pattern="."),
        pairs_of(("a", "b"), added={"<x>": AddedToken(300, False)}),
    ],
    ids=["crossed", "twice", "order", "unmade", "falling", "nfc", "pattern", "added"],
)
def test_where_it_does_not(pairs: BytePairs) -> None:
    assert not same_in_tiktoken(pairs)


def test_looking_pieces_up_changes_nothing_where_it_does() -> None:
    assert same_in_tiktoken(pairs_of(("a", "b"), ("ab", "c"), ignore_merges=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": {**ALPHABET, "a b": 256}}, "'a b'"),
        ({"tokens": {**ALPHABET, "人": 256}}, "'人'"),
        ({"tokens": {**ALPHABET, "": 256}}, "''"),
        ({"merges": [("a", "b")]}, "'a b'"),
        ({"merges": [("", "a")]}, "' a'"),
        ({"merges": [("aa", "b")]}, "'aa b'"),
        ({"added": {"": AddedToken(300, False)}}, "no text"),
    ],
)
def test_refusals(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        BytePairs(**{"tokens": ALPHABET, "merges": (), "pattern": GPT2_PATTERN, **change})
    assert said in str(caught.value)


def test_special_tokens_are_none_of_the_ordinary() -> None:
    vocabulary = {**ALPHABET, "ab": 256, "<|x|>": 257}
    pairs = BytePairs.of(vocabulary, [("a", "b")], GPT2_PATTERN, {"<|x|>": 257})
    assert pairs.tokens == {**ALPHABET, "ab": 256}
    for special, said in (
        ({"<|x|>": 300}, "has the id 300, but 257"),
        ({"a": ALPHABET["a"]}, "that of a byte"),
        ({"ab": 256}, "the merge 'a b'"),
    ):
        with pytest.raises(CheckpointError, match=said):
            BytePairs.of(vocabulary, [("a", "b")], GPT2_PATTERN, special)
