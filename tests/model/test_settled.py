"""Which tokens of a text stay whatever follows, for random vocabularies and every known pattern."""

import random

import pytest

from model.tokenizer import END_OF_TEXT, Settled, Tokenizer
from model.tokenizer.patterns import KNOWN_PATTERNS

CHARACTERS = "abls''  \n12\":éè"
"""Among them the beginnings of contractions, and characters that share a byte."""


def random_tokenizer(seed: int, pattern: str) -> Tokenizer:
    """The bytes, and 60 merges of those in `CHARACTERS`."""
    draw = random.Random(seed)
    ranks = {bytes([i]): i for i in range(256)}
    known = [bytes([byte]) for byte in dict.fromkeys(CHARACTERS.encode())]
    while len(ranks) < 256 + 60:
        merged = draw.choice(known) + draw.choice(known)
        if len(merged) < 8 and merged not in ranks:
            ranks[merged] = len(ranks)
            known.append(merged)
    return Tokenizer(ranks, pattern, {END_OF_TEXT: len(ranks)})


@pytest.mark.parametrize("pattern", sorted(KNOWN_PATTERNS))
def test_a_longer_text_begins_with_the_settled_tokens(pattern: str) -> None:
    draw = random.Random(1)
    kept = total = 0
    for seed in range(25):
        tokenizer = random_tokenizer(seed, pattern)
        settled = Settled(tokenizer)
        for _ in range(40):
            text = "".join(draw.choices(CHARACTERS, k=draw.randint(1, 12)))
            rests = ["".join(draw.choices(CHARACTERS, k=draw.randint(1, 6))) for _ in range(5)]
            tokens = settled.tokens(text, {rest.encode()[0] for rest in rests})
            for rest in ["", *rests]:
                whole = tokenizer.encode(text + rest)
                assert whole[: len(tokens)] == tokens, (seed, text, rest)
            kept, total = kept + len(tokens), total + len(tokenizer.encode(text))
    assert total / 2 < kept < total


def test_what_can_join_is_open_and_what_cannot_is_not() -> None:
    ranks = {bytes([i]): i for i in range(256)}
    for merged in (b'":', b'":"', b"ab", b" c", b"abcd", b"cd", "é".encode()):
        ranks[merged] = len(ranks)
    tokenizer = Tokenizer(ranks, r"[\s\S]+", {END_OF_TEXT: len(ranks)})
    settled = Settled(tokenizer)
    for text, following, kept in (
        ('x":', b'"', "x"),
        ('x":', b"1", 'x":'),
        ('x":', b"", 'x":'),  # the end
        ("ab", b"c", ""),  # abcd
        ("ab", b"x", "ab"),
        ("x ", b"c", "x"),
        ("x ", b"d", "x "),
        ("x  ", b"d", "x"),
        ("xab", b"c", "x"),
        ("é", b"d", "é"),
        ("", b"d", ""),
    ):
        assert tokenizer.decode(settled.tokens(text, following)) == kept, (text, following)
