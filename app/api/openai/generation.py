"""What completions and chats have in common: fields, numbers of tokens, and the events of streams.

    data: {"id": "cmpl-…", "object": "text_completion", …, "choices": [{"index": 0, "text": …, …}]}
    data: [DONE]

An error after the first byte is an event with OpenAI's envelope as its data, and the end. `top_k`,
`min_p`, `repetition_penalty` and `ignore_eos` are Penwright's own fields; the Python client sends
them with `extra_body`.
"""

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from app.api.fields import MOST_TOKENS, RequestBody, ResponseFormat, Stops, User
from app.api.generation import GenerationOptions
from app.api.openai.parameters import LogitBias, StreamOptions
from app.api.responses import Answer, Generation, encode_event, usage
from model.engine.request import Finished, Generate, Text
from model.sampling import SamplingSettings

FinishReason = Literal["stop", "length"]


class SamplingFields(RequestBody):
    """What completions and chats have in common."""

    temperature: float | None = Field(
        1.0,
        ge=0,
        le=100,
        description="0 always takes the most probable token; higher is more varied.",
    )
    top_p: float | None = Field(
        1.0,
        gt=0,
        le=1,
        description="Draw from the smallest set of most probable tokens that has this "
        "probability together.",
    )
    presence_penalty: float | None = Field(
        0.0,
        ge=-2,
        le=2,
        description="Taken from the logits of tokens that were generated before.",
    )
    frequency_penalty: float | None = Field(
        0.0, ge=-2, le=2, description="The same for each time that a token was generated."
    )
    logit_bias: LogitBias | None = Field(
        None, description="Token ids, and what is added to the logit of each before it is drawn."
    )
    n: int | None = Field(1, ge=1, le=128, description="Choices for each prompt.")
    stop: Stops | None = Field(
        None,
        description="Up to 8 strings; the first that appears ends the text and is no part of it.",
    )
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="Of the draws, as in /generate; null draws anew."
    )
    response_format: ResponseFormat | None = Field(
        None, description="What the text must be as a whole."
    )
    stream: bool | None = Field(
        False, description="Send the text piece by piece, as `text/event-stream`."
    )
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    user: User | None = Field(None, description="Who asks; it is written to the access log.")
    top_k: int | None = Field(
        None, ge=1, le=MOST_TOKENS, description="Draw from the k most probable tokens only."
    )
    min_p: float | None = Field(
        0.0,
        ge=0,
        le=1,
        description="Draw only tokens at least this share as probable as the most probable one.",
    )
    repetition_penalty: float | None = Field(
        1.0,
        ge=1e-6,
        le=10,
        description="Above 1, makes tokens of the prompt and of the text so far less likely.",
    )
    ignore_eos: bool | None = Field(
        False, description="Go on after the end token, up to the most tokens."
    )

    @field_validator("stream_options")
    @classmethod
    def _only_with_stream(
        cls, value: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if value is not None and value.include_usage and info.data.get("stream") is not True:
            raise ValueError("is for streams only: set `stream`, or leave it out")
        return value

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def _options(
        self, limit: str, wanted: int | None, default: int, logprobs: int | None
    ) -> GenerationOptions:
        """
        Args:
            limit: the field that has the number of new tokens.
            wanted: what it has.
            default: the most, if it has none.
        """
        stop = self.stop or ()
        biases = {int(token): value for token, value in (self.logit_bias or {}).items()}
        sampling = SamplingSettings(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=self.seed,
            logit_bias=tuple(biases.items()),
        )
        want = Generate(
            max_new_tokens=wanted or default,
            sampling=sampling,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            stream=bool(self.stream),
        )
        return GenerationOptions(
            want,
            must_fit=wanted is not None,
            limit=limit,
            choices=self.n or 1,
            response_format=self.response_format,
        )


class CachedTokens(BaseModel):
    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed.")


class Usage(BaseModel):
    """Numbers of tokens."""

    __qualname__ = "app__openai__answers__Usage"  # in /openapi.json: programs are generated from it

    prompt_tokens: int = Field(description="Of the prompts; each counts once, whatever `n` is.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


def finish_reason(end: Finished) -> FinishReason:
    return "length" if end.reason == "length" else "stop"


class OpenAIAnswer(Answer):
    """What answers of completions and chats have in common.

    Args:
        include_usage: end a stream with an event that has no choice, but the numbers of tokens.
    """

    prefix: ClassVar[str]
    """Of its id."""
    kind: ClassVar[str]
    """Its `object`."""
    chunk_kind: ClassVar[str]
    """That of an event."""

    def __init__(self, generation: Generation, include_usage: bool) -> None:
        super().__init__(generation)
        self._head = self.head(self.chunk_kind)
        self._include_usage = include_usage
        if include_usage:
            self._head["usage"] = None

    def head(self, kind: str) -> dict[str, Any]:
        """The members that an answer begins with, or each event of a stream."""
        model = self.generation.model
        return {
            "id": f"{self.prefix}-{self.generation.id}",
            "object": kind,
            "created": int(time.time()),
            "model": model.name,
            # Another one when the model that answers by this name is another one.
            "system_fingerprint": f"fp_{model.checkpoint[:16]}",
        }

    def usage(self, ends: Sequence[Finished]) -> Usage:
        counts = usage(self.generation, ends)
        return Usage(
            prompt_tokens=counts.prompt_tokens,
            completion_tokens=counts.completion_tokens,
            total_tokens=counts.total_tokens,
            prompt_tokens_details=CachedTokens(cached_tokens=counts.cached_tokens),
        )

    def text(self, index: int, event: Text) -> bytes:
        return self._chunk(index, self.piece(index, event), None)

    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        chunk = self._chunk(index, self.piece(index, None), self.reason(index, event))
        if ends is None or not self._include_usage:
            return chunk
        counts = self.usage(ends).model_dump()
        return chunk + encode_event({**self._head, "choices": [], "usage": counts})

    def reason(self, index: int, event: Finished) -> str:
        """Why a choice ends."""
        return finish_reason(event)

    def _chunk(self, index: int, piece: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": index, **piece, "finish_reason": reason}
        return encode_event({**self._head, "choices": [choice]})

    @abstractmethod
    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        """The members of a choice that have the text; None has come to its end."""
