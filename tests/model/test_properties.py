"""What holds for every text and every way to cut it into tokens, tried on what hypothesis finds."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from model.tokenizer import END_OF_TEXT, GPT2_PATTERN, StreamDecoder, TextStream, Tokenizer

# The same examples every time; for others: derandomize=False.
EXAMPLES = settings(max_examples=200, derandomize=True, deadline=None, database=None)

BYTES = {bytes([byte]): byte for byte in range(256)}
# Whole characters, parts of characters with and without neighbours, and several characters.
MERGES = ["é", "né", " a", "ab", "abc", "\U0001f469\u200d", "e\u0301", "人", "aa", "ba"]
PARTS = ["f09f", "9f8e", "8e89", "e280", "808d61", "61c3", "a9c3", "f09f9187e2", "ff80", "c3a962"]
EXTRA = [text.encode() for text in MERGES] + [bytes.fromhex(part) for part in PARTS]
TOKENIZER = Tokenizer(
    BYTES | {extra: 256 + i for i, extra in enumerate(EXTRA)},
    GPT2_PATTERN,
    {END_OF_TEXT: 256 + len(EXTRA)},
)
TOKEN_BYTES = [*sorted(BYTES, key=BYTES.__getitem__), *EXTRA]

# Combining characters, joiners, flags, characters beyond the first plane, U+FFFD itself, NUL.
HARD = st.text("ae\u0301\u200d\ufe0f👩👧🇩🇪é人\U0010ffff\ufffd\0\n", max_size=12)
TEXTS = st.one_of(HARD, st.text(max_size=20))
# Most draws are of the tokens that are parts of characters.
TOKENS = st.lists(
    st.one_of(st.integers(0, len(TOKEN_BYTES) - 1), st.integers(256, len(TOKEN_BYTES) - 1)),
    max_size=24,
)


def pieces_of(tokens: Sequence[int]) -> list[str]:
    decoder = StreamDecoder(TOKENIZER)
    return [*(decoder.push(token) for token in tokens), decoder.flush()]


@st.composite
def tokenised(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS) -> tuple[str, list[int]]:
    """A text, and some tokens that it can come as: not only those of the encoding."""
    text = draw(texts)
    left, tokens = text.encode(), []
    while left:
        fitting = [i for i, token in enumerate(TOKEN_BYTES) if left.startswith(token)]
        tokens.append(draw(st.sampled_from(fitting)))
        left = left[len(TOKEN_BYTES[tokens[-1]]) :]
    return text, tokens


# ---- the decoder ----


@EXAMPLES
@given(tokenised())
def test_any_tokens_of_a_text_give_the_text(case: tuple[str, list[int]]) -> None:
    text, tokens = case
    pieces = pieces_of(tokens)
    assert "".join(pieces) == text
    assert pieces[-1] == "", "nothing is left of a whole text"
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@EXAMPLES
@given(TEXTS)
def test_the_encoding_gives_the_text(text: str) -> None:
    assert "".join(pieces_of(TOKENIZER.encode(text))) == text


@EXAMPLES
@given(tokenised())
def test_a_character_comes_with_the_token_that_completes_it(case: tuple[str, list[int]]) -> None:
    """Neither earlier, which would break it, nor later, which would hold the stream up."""
    _, tokens = case
    sent, data = "", b""
    for token, piece in zip(tokens, pieces_of(tokens), strict=False):
        data += TOKEN_BYTES[token]
        sent += piece
        assert sent == data.decode(errors="ignore")


@EXAMPLES
@given(TOKENS)
def test_any_bytes_at_all_give_what_decoding_them_gives(tokens: list[int]) -> None:
    assert "".join(pieces_of(tokens)) == TOKENIZER.decode(tokens)


@EXAMPLES
@given(TOKENS, TOKENS)
def test_what_was_sent_does_not_depend_on_what_follows(
    tokens: list[int], others: list[int]
) -> None:
    """So a piece is never taken back, and holds no U+FFFD for a character that is still coming."""
    count = len(tokens)
    assert pieces_of(tokens)[:count] == pieces_of([*tokens, *others])[:count]
    sent = "".join(pieces_of(tokens)[:count])
    held = len(TOKENIZER.decode(tokens)) - len(sent)
    assert 0 <= held <= 1, "more than one unfinished character is held back"


# ---- stop strings ----


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """What a stream of single characters sends: it ends at the first one that completes a stop
    string, and where that completes several, before the one that began first."""
    for end in range(1, len(text) + 1):
        complete = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(complete)], True
    return text, False


def run(tokens: Sequence[int], stops: Sequence[str]) -> tuple[list[str], bool]:
    """The pieces that a stream sends, until it stops."""
    return follow(TextStream(TOKENIZER, stops), tokens)


def follow(stream: TextStream, tokens: Sequence[int]) -> tuple[list[str], bool]:
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces, True
    pieces.append(stream.flush())
    return pieces, stream.stopped


def first(text: str, stops: Sequence[str]) -> int:
    """Where the first stop string begins in a whole text; its end if there is none."""
    return min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=len(text))


FEW = st.text("ab", max_size=16)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
WIDE_STOPS = st.lists(st.text("ae\u0301é👩\u200d\ufffd", min_size=1, max_size=4), max_size=3)


@EXAMPLES
@given(FEW, STOPS)
def test_character_by_character(text: str, stops: list[str]) -> None:
    pieces, stopped = run(list(text.encode()), stops)
    assert ("".join(pieces), stopped) == cut(text, stops)


@EXAMPLES
@given(st.one_of(tokenised(FEW), tokenised(HARD)), st.one_of(STOPS, WIDE_STOPS))
def test_token_by_token(case: tuple[str, list[int]], stops: list[str]) -> None:
    """A token can complete several stop strings at once: then the one that begins first counts."""
    text, tokens = case
    pieces, stopped = run(tokens, stops)
    # The tokens up to the first with whose text a stop string is complete.
    for end in range(len(tokens) + 1):
        seen = b"".join(TOKEN_BYTES[token] for token in tokens[:end]).decode(errors="ignore")
        if any(stop in seen for stop in stops):
            assert ("".join(pieces), stopped) == (seen[: first(seen, stops)], True)
            assert len(pieces) == end, "it stops with that token"
            return
    assert ("".join(pieces), stopped) == (text, False)


@EXAMPLES
@given(TOKENS, WIDE_STOPS)
def test_no_stop_string_is_ever_sent_and_nothing_is_held_for_long(
    tokens: list[int], stops: list[str]
) -> None:
    """Also with broken bytes, whose U+FFFD can complete a stop string at the very end."""
    pieces, stopped = run(tokens, stops)
    sent = "".join(pieces)
    assert not any(stop in sent for stop in stops)
    whole = TOKENIZER.decode(tokens)
    assert whole.startswith(sent)
    assert stopped or sent == whole
    assert stopped == any(stop in whole for stop in stops)


@EXAMPLES
@given(FEW, STOPS)
def test_only_the_beginning_of_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    stream = TextStream(TOKENIZER, stops)
    sent = ""
    for end, byte in enumerate(text.encode(), 1):
        sent += stream.push(byte)
        if stream.stopped:
            return
        held = text[len(sent) : end]
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))}
        assert held in beginnings | {""}
        # And no longer one would have been right to hold back as well.
        longer = [text[start:end] for start in range(len(sent))]
        assert not any(tail in beginnings for tail in longer)


@EXAMPLES
@given(FEW, STOPS)
def test_the_order_of_the_stop_strings_is_nothing(text: str, stops: list[str]) -> None:
    tokens = list(text.encode())
    found = []
    for ordered in (stops, stops[::-1], [*stops, *stops]):
        stream = TextStream(TOKENIZER, ordered)
        found.append((follow(stream, tokens), stream.matched))
    assert found[1:] == found[:1] * 2
    [(pieces, stopped), matched] = found[0]
    assert (matched in stops) == stopped
    assert matched is None or f"{''.join(pieces)}{matched}" in text


def test_the_tokens_are_those_that_the_tests_count_on() -> None:
    assert TOKENIZER.vocab_size == len(TOKEN_BYTES) + 1
    assert all(TOKENIZER.token_bytes(i) == token for i, token in enumerate(TOKEN_BYTES))
