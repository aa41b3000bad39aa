"""Bodies of requests as OpenAI's clients send them.

`null` means the same as leaving a field out, as it does there. What the clients can send and
nothing here does is listed too, with the values that ask for nothing: all others are refused by
name. So is what is not listed. `top_k`, `min_p`, `repetition_penalty` and `ignore_eos` are
Penwright's own; the Python client sends them with `extra_body`.
"""

from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationInfo, field_validator

from app.api.fields import MOST_TOKENS, Body, ResponseFormat, Stops
from app.api.openai.parameters import (
    Inputs,
    LogitBias,
    Messages,
    Only,
    Prompts,
    StreamOptions,
    User,
)
from app.api.options import Options
from model.prompts import Message
from model.sampling import SamplingSettings

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions."""

Texts = list[str] | list[list[int]]
"""Texts, or the token ids of each."""
NewTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class _Sampled(Body):
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


class CompletionRequest(_Sampled):
    """Continue a text, or several."""

    prompt: Prompts | None = Field(
        description="A text or its token ids, or a list of them. An empty text, or null, starts a "
        "new document."
    )
    max_tokens: NewTokens | None = Field(
        None,
        description="Most tokens to generate. If given, the prompt and as many tokens must fit "
        f"the model's context; if not, it is {DEFAULT_COMPLETION_TOKENS} or what the context has "
        "room for.",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Report the log-probability of each token and those of this many of the most "
        "probable ones. They are the model's own, before temperature.",
    )
    best_of: Annotated[Any, Only(None, 1)] = None
    echo: Annotated[Any, Only(None, False)] = None
    suffix: Annotated[Any, Only(None, "")] = None

    @property
    def prompts(self) -> Texts:
        return one_or_many("" if self.prompt is None else self.prompt)

    @property
    def options(self) -> Options:
        return self._options(
            "max_tokens", self.max_tokens, DEFAULT_COMPLETION_TOKENS, self.logprobs
        )


class ChatRequest(_Sampled):
    """Answer the last message of a conversation."""

    messages: Messages = Field(
        description="The last one must be the user's. They are put before the model in its own "
        "template. One without turns (Alpaca's) makes the last message the instruction, after the "
        "system messages and with a blank line between, and earlier turns the input, as lines that "
        "begin with `User: ` or `Assistant: `. Nothing is left out: what is longer than the "
        "context is an error."
    )
    max_tokens: NewTokens | None = Field(
        None, description="An older name of `max_completion_tokens`."
    )
    max_completion_tokens: NewTokens | None = Field(
        None,
        description="Most tokens to generate. If given, the prompt and as many tokens must fit "
        "the model's context; if not, it is what the context has room for.",
    )
    logprobs: bool | None = Field(
        False,
        description="Report the log-probability of each token: the model's own, before "
        "temperature.",
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="With `logprobs`: of this many of the most probable, too."
    )
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None, "none")] = None
    functions: Annotated[Any, Only(None, [])] = None
    metadata: Annotated[Any, Only(None, {})] = None
    modalities: Annotated[Any, Only(None, ["text"])] = None
    moderation: Annotated[Any, Only(None)] = None
    parallel_tool_calls: Annotated[Any, Only(None, False)] = None
    prediction: Annotated[Any, Only(None)] = None
    prompt_cache_key: Annotated[Any, Only(None)] = None
    prompt_cache_options: Annotated[Any, Only(None, {})] = None
    prompt_cache_retention: Annotated[Any, Only(None)] = None
    reasoning_effort: Annotated[Any, Only(None, "none")] = None
    safety_identifier: Annotated[Any, Only(None)] = None
    service_tier: Annotated[Any, Only(None, "auto", "default")] = None
    store: Annotated[Any, Only(None, False)] = None
    tool_choice: Annotated[Any, Only(None, "none")] = None
    tools: Annotated[Any, Only(None, [])] = None
    verbosity: Annotated[Any, Only(None)] = None
    web_search_options: Annotated[Any, Only(None)] = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("max_tokens") is not None:
            raise ValueError("is given beside `max_tokens`, which means the same: send one of them")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and info.data.get("logprobs") is not True:
            raise ValueError("is for `logprobs: true` only")
        return value

    @property
    def conversation(self) -> list[Message]:
        return [Message(message.chat_role, message.text) for message in self.messages]

    @property
    def options(self) -> Options:
        limit = "max_completion_tokens" if self.max_tokens is None else "max_tokens"
        wanted = self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self._options(limit, wanted, None, logprobs)


class EmbeddingRequest(Body):
    """Turn a text, or several, into vectors."""

    input: Inputs = Field(
        description="A text or its token ids, or a list of them; none is empty or longer than the "
        "model's context."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        "float", description="Numbers; or, as base64, the bytes of little-endian fp32 numbers."
    )
    dimensions: Annotated[Any, Only(None)] = None
    user: User | None = Field(None, description="Who asks; it is written to the access log.")

    @property
    def inputs(self) -> Texts:
        return one_or_many(self.input)


def one_or_many(value: str | list[str] | list[int] | list[list[int]]) -> Texts:
    single = isinstance(value, str) or isinstance(value[0], int)
    return cast(Texts, [value] if single else value)
