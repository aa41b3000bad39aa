"""Text of a growing token sequence: whole characters, cut at the first stop string."""

import codecs
from collections.abc import Sequence

from model.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Text of a growing token sequence, never with a broken character.

    A character can span several tokens: its bytes are held back until it is whole. `flush` gives
    what is left at the end, where bytes that never became a character are U+FFFD. Special tokens
    have no text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class TextStream:
    """Text of one generation: looks for stop strings, also across the borders of tokens.

    Text that could still turn out to be the beginning of a stop string is held back.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended it."""

    @property
    def stopped(self) -> bool:
        return self.matched is not None

    def push(self, token: int) -> str:
        """The text that `token` makes certain. Sets `matched` when a stop string is complete."""
        return self._release(self._decoder.push(token))

    def flush(self) -> str:
        """What was held back, when nothing follows any more."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.flush())
        if self.stopped:
            return text
        text, self._held = text + self._held, ""
        return text

    def _release(self, new: str) -> str:
        text = self._held + new
        # Of several stop strings the one that begins first ends the text; of two, the shorter one.
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            begin, self.matched = min(found, key=lambda each: (each[0], len(each[1])))
            self._held = ""
            return text[:begin]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
