"""Log-probabilities as completions have them: a list for each of their properties."""

from collections.abc import Sequence

from pydantic import BaseModel, Field

from model.checkpoint import Base
from model.engine.request import Scored, TokenLogprob
from model.tokenizer import StreamDecoder, Tokenizer


class CompletionLogprobs(BaseModel):
    """Of all generated tokens, in order, also those of a stop string and the end token, which
    `text` does not have; with `echo`, of those of the prompt before them."""

    tokens: list[str] = Field(description="`bytes:\\xe2` and the like for a part of a character.")
    token_logprobs: list[float | None] = Field(
        description="The first token of an echoed prompt has none."
    )
    top_logprobs: list[dict[str, float] | None] = Field(
        description="The most probable tokens at each place, and that of the text."
    )
    text_offset: list[int] = Field(description="Where in `text` each token begins.")
    forced: list[bool] = Field(
        description="Whether each was not drawn, because `response_format` left no choice."
    )

    def followed_by(self, others: "CompletionLogprobs") -> "CompletionLogprobs":
        return CompletionLogprobs(
            tokens=self.tokens + others.tokens,
            token_logprobs=self.token_logprobs + others.token_logprobs,
            top_logprobs=self.top_logprobs + others.top_logprobs,
            text_offset=self.text_offset + others.text_offset,
            forced=self.forced + others.forced,
        )


class LogprobsWriter:
    """Log-probabilities of one sequence of a completion, as its tokens come."""

    def __init__(self, base: Base) -> None:
        self._tokenizer = base.tokenizer
        self._stop_tokens = base.stop_tokens
        self._decoder = StreamDecoder(base.tokenizer)
        self._length = 0  # of the text so far, as far as its characters are whole

    def take(self, values: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """Those of the next tokens."""
        return CompletionLogprobs(
            tokens=[_name(self._tokenizer, value.token) for value in values],
            token_logprobs=[value.logprob for value in values],
            top_logprobs=[
                {
                    _name(self._tokenizer, token): logprob
                    for token, logprob in [
                        *((token, logprob) for token, _, logprob in value.top),
                        (value.token, value.logprob),
                    ]
                }
                for value in values
            ],
            text_offset=[self._offset(value.token) for value in values],
            forced=[value.forced for value in values],
        )

    def take_prompt(self, tokens: Sequence[int], scored: Scored) -> CompletionLogprobs:
        """Those of a prompt, of which the first token has none."""
        first = CompletionLogprobs(
            tokens=[_name(self._tokenizer, tokens[0])],
            token_logprobs=[None],
            top_logprobs=[None],
            text_offset=[self._offset(tokens[0])],
            forced=[False],
        )
        return first.followed_by(self.take(scored.logprobs))

    def _offset(self, token: int) -> int:
        """Where in the text the next token begins."""
        before = self._length
        if token not in self._stop_tokens:  # which have no text
            self._length += len(self._decoder.push(token))
        return before


def _name(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token, or its bytes: no two tokens have the same name."""
    content = tokenizer.token_bytes(token)
    if not content:
        return tokenizer.token_name(token)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
