"""Bodies of answers."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from model.engine.request import FinishReason


class Alternative(BaseModel):
    """A token that could have come at this place."""

    token: int
    text: str
    logprob: float


class TokenLogprobs(Alternative):
    """A generated token."""

    top: list[Alternative] = Field(description="The most probable tokens here, the best first.")


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int = Field(description="Of the prompts; each counts once, whatever `n` is.")
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed.")


class Timings(BaseModel):
    """Seconds; with several choices, the longest of each."""

    queue: float = Field(description="Until the engine took the request up.")
    prefill: float = Field(description="From there to the first token.")
    decode: float = Field(description="From there to the last.")


class Choice(BaseModel):
    index: int
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs] | None


class GenerateResponse(BaseModel):
    id: str
    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings


class InstructResponse(BaseModel):
    id: str
    model: str
    response: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


class Classification(BaseModel):
    label: str
    score: float = Field(description="Probability of `label`.")
    probabilities: dict[str, float]
    tokens: int = Field(description="Number of tokens that were read.")
    truncated: bool = Field(description="Whether the text was longer than that.")


class ClassifyResponse(BaseModel):
    model: str
    results: list[Classification] = Field(description="One for each text, in order.")
    usage: Usage


class TokenizeResponse(BaseModel):
    model: str
    tokens: list[int]


class DetokenizeResponse(BaseModel):
    model: str
    text: str


class ModelCard(BaseModel):
    """One of the models that are served."""

    name: str = Field(description="What `model` is in a request.")
    tasks: list[Literal["generate", "classify", "instruct"]]
    checkpoint: str = Field(description="The checkpoint's id: SHA-256 of its card.")
    sha256: str = Field(description="SHA-256 of its file of weights.")
    base: str | None = Field(description="Of an adapter: the id of the base that it belongs to.")
    parameters: int = Field(description="Of the whole network, the adapter included.")
    adapter_parameters: int | None = Field(description="Of an adapter: how many are its own.")
    context_length: int
    vocab_size: int
    labels: list[str] | None
    positive: str | None = Field(description="The label that must reach the threshold.")
    threshold: float | None
    metrics: dict[str, Any] = Field(description="As its card has them.")


class ModelsResponse(BaseModel):
    models: list[ModelCard]


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str | None
    errors: list[dict[str, Any]] | None = Field(None, description="With 422: one for each field.")
