"""What completions and chats have in common: fields, numbers of tokens, and the events of streams.

    data: {"id": "cmpl-…", "object": "text_completion", …, "choices": [{"index": 0, "text": …, …}]}
    data: [DONE]

An error after the first byte is an event with OpenAI's envelope as its data, and the end. `top_k`,
`min_p`, `repetition_penalty` and `ignore_eos` are Penwright's own fields; the Python client sends
them with `extra_body`.
"""

import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from app.api.fields import MOST_TOKENS, RequestBody, ResponseFormat, Stops
from app.api.generation import Options, check_batch, constrained, plan
from app.api.openai.parameters import LogitBias, StreamOptions, User
from app.api.prompts import check_ids
from app.api.responses import Encoder, Generation, encode_event, usage
from app.engine.loading import ServedModel
from app.engine.service import Service
from app.ops.context import OBSERVATION
from model.engine.request import Finished, Text
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

    @property
    def biases(self) -> dict[int, float]:
        return {int(token): value for token, value in (self.logit_bias or {}).items()}

    @property
    @abstractmethod
    def options(self) -> Options:
        """How the texts are generated."""

    def _options(
        self, limit: str, max_new_tokens: int | None, default: int | None, logprobs: int | None
    ) -> Options:
        stop = self.stop or ()
        sampling = SamplingSettings(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=self.seed,
            logit_bias=tuple(self.biases.items()),
        )
        return Options(
            sampling,
            max_new_tokens=max_new_tokens,
            default_new_tokens=default,
            limit=limit,
            choices=self.n or 1,
            stops=(stop,) if isinstance(stop, str) else tuple(stop),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            stream=bool(self.stream),
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


def fingerprint(model: ServedModel) -> str:
    """Changes when the model that answers by this name is another one."""
    checkpoint = model.base.id if model.adapter is None else model.adapter.id
    return f"fp_{checkpoint[:16]}"


def head(generation: Generation, prefix: str, kind: str) -> dict[str, Any]:
    """The members that an answer begins with, or each event of a stream."""
    return {
        "id": f"{prefix}-{generation.id}",
        "object": kind,
        "created": int(time.time()),
        "model": generation.model.name,
        "system_fingerprint": fingerprint(generation.model),
    }


def finish_reason(end: Finished) -> FinishReason:
    return "length" if end.reason == "length" else "stop"


def openai_usage(generation: Generation, ends: Sequence[Finished]) -> Usage:
    counts = usage(generation, ends)
    return Usage(
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        total_tokens=counts.total_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=counts.cached_tokens),
    )


def note_user(user: str | None) -> None:
    """Have the access log say who asks."""
    observation = OBSERVATION.get()
    if observation is not None:
        observation.user = user


async def plan_sampled(
    service: Service,
    model: ServedModel,
    body: SamplingFields,
    count: int,
    field: str,
    encode: Callable[[], Awaitable[list[list[int]]]],
) -> Generation:
    """What a body asks of the engine, after all that can be wrong with it.

    Args:
        count: of its prompts.
        field: where they are.
        encode: gives their token ids.
    """
    note_user(body.user)
    options, deadline = body.options, time.monotonic() + service.settings.request_timeout
    check_batch(count, options.choices, service.settings.max_batch, field)
    check_ids(model, body.biases, "logit_bias")
    tokens = await encode()
    options = await constrained(
        model.dispatcher.compiler,
        options,
        body.response_format,
        prompts=len(tokens),
        deadline=deadline,
    )
    return plan(model, tokens, options, deadline=deadline)


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
