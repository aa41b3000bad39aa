"""Bodies of answers as OpenAI's clients expect them."""

from typing import Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length"]


class CachedTokens(BaseModel):
    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed.")


class Usage(BaseModel):
    """Numbers of tokens."""

    __qualname__ = "app__openai__answers__Usage"  # in /openapi.json: programs are generated from it

    prompt_tokens: int = Field(description="Of the prompts; each counts once, whatever `n` is.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CompletionLogprobs(BaseModel):
    """Of all generated tokens, in order, also those of a stop string and the end token, which
    `text` does not have."""

    tokens: list[str] = Field(description="`bytes:\\xe2` and the like for a part of a character.")
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] = Field(
        description="The most probable tokens at each place, and the generated one."
    )
    text_offset: list[int] = Field(description="Where in `text` each token begins.")
    forced: list[bool] = Field(
        description="Whether each was not drawn, because `response_format` left no choice."
    )


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Of the checkpoint that answers.")
    choices: list[CompletionChoice]
    usage: Usage


class TopLogprob(BaseModel):
    """A token that could have come at this place."""

    token: str
    bytes: list[int] = Field(description="Those of `token`, which can be a part of a character.")
    logprob: float


class ChatTokenLogprob(TopLogprob):
    """A generated token."""

    top_logprobs: list[TopLogprob]
    forced: bool = Field(
        description="Whether it was not drawn, because `response_format` left no choice."
    )


class ChatLogprobs(BaseModel):
    """Of all generated tokens, in order, also those of a stop string and the end token, which the
    message does not have."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Of the checkpoint that answers.")
    choices: list[ChatChoice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Of length 1. A text is base64.")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Embedding] = Field(description="One for each input, in order.")
    usage: EmbeddingUsage


class Model(BaseModel):
    """A model that is served; /models tells more of it."""

    id: str = Field(description="What `model` is in a request.")
    object: Literal["model"]
    created: int = Field(description="When its checkpoint was published here.")
    owned_by: Literal["penwright"]
    max_model_len: int = Field(description="Its context: tokens of prompt and answer together.")
    tasks: list[Literal["generate", "classify", "instruct"]] = Field(
        description="`generate` answers completions, `instruct` chats; all give embeddings."
    )


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]
