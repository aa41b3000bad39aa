"""Events of streams as OpenAI's clients read them.

    data: {"id": "cmpl-…", "object": "text_completion", …, "choices": [{"index": 0, "text": …, …}]}
    data: [DONE]

An error after the first byte is an event with OpenAI's envelope as its data, and the end.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from app.api.generation import Generation
from app.api.openai.generation import finish_reason, head, openai_usage
from app.api.openai.logprobs import Completed, chat_json
from app.api.responses import Encoder, encode_event
from model.engine.request import Finished, Text


class Chunks(Encoder):
    """What completions and chats have in common.

    Args:
        include_usage: end with an event that has no choice, but the numbers of tokens.
    """

    def __init__(self, generation: Generation, prefix: str, kind: str, include_usage: bool) -> None:
        super().__init__(generation)
        self._head = head(generation, prefix, kind)
        self._include_usage = include_usage
        if include_usage:
            self._head["usage"] = None

    def text(self, index: int, event: Text) -> bytes:
        return self._chunk(index, self.piece(index, event), None)

    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        chunk = self._chunk(index, self.piece(index, None), finish_reason(event))
        if ends is None or not self._include_usage:
            return chunk
        counts = openai_usage(self.generation, ends).model_dump()
        return chunk + encode_event({**self._head, "choices": [], "usage": counts})

    def _chunk(self, index: int, piece: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": index, **piece, "finish_reason": reason}
        return encode_event({**self._head, "choices": [choice]})

    @abstractmethod
    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        """The members of a choice that have the text; None has come to its end."""


class CompletionChunks(Chunks):
    """The events of /v1/completions."""

    def __init__(self, generation: Generation, include_usage: bool) -> None:
        super().__init__(generation, "cmpl", "text_completion", include_usage)
        self._logprobs = [Completed(generation.model.base) for _ in generation.requests]

    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        if event is None:
            return {"text": "", "logprobs": None}
        logprobs = None
        if self.generation.logprobs:
            logprobs = self._logprobs[index].take(event.logprobs).model_dump()
        return {"text": event.text, "logprobs": logprobs}


class ChatChunks(Chunks):
    """The events of /v1/chat/completions: the first one of each choice has the role."""

    def __init__(self, generation: Generation, include_usage: bool) -> None:
        super().__init__(generation, "chatcmpl", "chat.completion.chunk", include_usage)
        self._begun: set[int] = set()

    def _chunk(self, index: int, piece: dict[str, Any], reason: str | None) -> bytes:
        chunk = super()._chunk(index, piece, reason)
        if index in self._begun:
            return chunk
        self._begun.add(index)
        delta = {"role": "assistant", "content": ""}
        return super()._chunk(index, {"delta": delta, "logprobs": None}, None) + chunk

    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        if event is None:
            return {"delta": {}, "logprobs": None}
        logprobs = None
        if self.generation.logprobs:
            logprobs = chat_json(self.generation.model.base, event.logprobs)
        return {"delta": {"content": event.text}, "logprobs": logprobs}
