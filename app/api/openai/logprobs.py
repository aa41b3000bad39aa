"""Log-probabilities of generated tokens as OpenAI's two APIs have them."""

from collections.abc import Sequence
from typing import Any

from app.api.openai.answers import ChatLogprobs, CompletionLogprobs
from model.checkpoint import Base
from model.engine.request import TokenLogprob
from model.tokenizer import StreamDecoder, Tokenizer


class Completed:
    """Of one sequence of a completion, as its tokens come."""

    def __init__(self, base: Base) -> None:
        self._tokenizer = base.tokenizer
        self._stop_tokens = base.stop_tokens
        self._decoder = StreamDecoder(base.tokenizer)
        self._length = 0  # of the text so far, as far as its characters are whole

    def take(self, values: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """Those of the next tokens."""
        offsets = []
        for value in values:
            offsets.append(self._length)
            if value.token not in self._stop_tokens:  # which have no text
                self._length += len(self._decoder.push(value.token))
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
            text_offset=offsets,
            forced=[value.forced for value in values],
        )


def _name(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token, or its bytes: no two tokens have the same name."""
    content = tokenizer.token_bytes(token)
    if not content:
        return tokenizer.token_name(token)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def of_chat(base: Base, values: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Of tokens of a chat's answer."""
    return ChatLogprobs.model_validate(chat_json(base, values))


def chat_json(base: Base, values: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The same as JSON has it: for streams, which make it on the event loop, piece by piece."""
    content = base.tokenizer.token_bytes
    return {
        "content": [
            {
                "token": value.text,
                "bytes": list(content(value.token)),
                "logprob": value.logprob,
                "top_logprobs": [
                    {"token": text, "bytes": list(content(token)), "logprob": logprob}
                    for token, text, logprob in value.top
                ],
                "forced": value.forced,
            }
            for value in values
        ],
        "refusal": None,
    }
