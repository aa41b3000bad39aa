"""Text of a growing token sequence."""

import codecs

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
