"""Which tokens of a text stay, whatever follows it.

The tokens of a text are seldom the first tokens of a longer one: what follows can join the end of
the text in one token (`":` and `"` are `":"`), or have it cut into other pieces.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection

from model.tokenizer.tokenizer import Tokenizer


class Settled:
    """Finds the settled tokens of texts, for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode
        contents = {tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
        self._vocabulary = sorted(contents - {b""})
        self._longest = max(map(len, self._vocabulary))

    def tokens(self, text: str, following: Collection[int]) -> list[int]:
        """The settled tokens of `text`: those of its longest beginning whose end is closed.

        The end of a beginning is closed if it is the end of a text after which nothing comes, or if
        the next byte can join it in no token: no token of the vocabulary is an end of the
        beginning, that byte, and anything more. Nor must the end be loose, which is two white
        spaces or more, or an apostrophe and one letter: what follows can have these cut into other
        pieces (`it's`, or two spaces before a word).

        Then, with the patterns of `model.tokenizer.patterns`, a longer text that goes on as said
        begins with these tokens: between its beginning and the rest is a border of tokens, pairs
        are merged on either side as if the other were not there, and so they are in `text` itself.

        Args:
            following: the bytes that may follow the text; none if nothing can.

        Raises:
            TextError: as of `encode`.
        """
        content = text.encode()
        end, following = len(content), frozenset(following)
        while end and following:
            before = self._closed(content[:end], following)
            if before == end:
                break
            end, following = before, frozenset(content[before : before + 1])
        return self._encode(content[:end].decode())

    def _closed(self, content: bytes, following: frozenset[int]) -> int:
        """The length of `content` if its end is closed, else of a beginning that may be."""
        text = content.decode("utf-8", "ignore")  # without part of a character
        if len(text) - len(text.rstrip()) > 1:
            text = text.rstrip()
        elif text[-2:-1] == "'" and text[-1].isalpha():
            text = text[:-2]
        length = len(text.encode())
        if length < len(content):
            return length
        starts = range(max(0, length - self._longest), length)
        return next((at for at in starts if self._join(content[at:], following)), length)

    def _join(self, end: bytes, following: frozenset[int]) -> bool:
        """Whether a token begins with `end` and one of `following`."""
        at = bisect_right(self._vocabulary, end)
        while at < len(self._vocabulary) and self._vocabulary[at].startswith(end):
            byte = self._vocabulary[at][len(end)]
            if byte in following:
                return True
            if byte == 255:
                break
            at = bisect_left(self._vocabulary, end + bytes([byte + 1]), at)
        return False
