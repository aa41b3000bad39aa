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
    forced: bool = Field(
        description="Whether it was not drawn, because `response_format` left no choice."
    )


class Usage(BaseModel):
    """Numbers of tokens."""

    __qualname__ = "app__answers__Usage"  # in /openapi.json: programs are generated from it

    prompt_tokens: int = Field(description="Of the prompts; each counts once, whatever `n` is.")
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed.")


class Timings(BaseModel):
    """Seconds, with several choices the longest of each; and tokens, of all choices."""

    queue: float = Field(description="Until the engine took the request up.")
    prefill: float = Field(description="From there to the first token.")
    decode: float = Field(description="From there to the last.")
    drafted_tokens: int = Field(
        description="Tokens computed in advance, because they had followed the same ones before, "
        "or `response_format` makes them likely."
    )
    accepted_tokens: int = Field(description="How many of them came, and spared a step.")
    forced_tokens: int = Field(
        description="Tokens that were not drawn, because `response_format` left no choice."
    )


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


class TokenContribution(BaseModel):
    """A token of a text, and its part in the text's label."""

    token: int
    text: str = Field(
        description="The characters that it completes, possibly none; all together are the text."
    )
    contribution: float = Field(
        description="Mean of what it changes in the log-odds when it is added to the tokens before "
        "it, and when it is put in front of those after it: Shapley's value over these two orders."
    )


class Attributions(BaseModel):
    """Why a text has its label. Contributions add up to `log_odds` - `baseline` within 0.001."""

    of: str = Field(description="The positive label; for a model without one, the label given.")
    baseline: float = Field(description="Log-odds of the empty text.")
    log_odds: float = Field(
        description="Logit of `of`, less the log-sum-exp of the other labels' logits."
    )
    tokens: list[TokenContribution]


class Classification(BaseModel):
    label: str = Field(description="`unsure` within the band.")
    score: float = Field(description="Probability of `label`; within the band, of `leaning`.")
    leaning: str | None = Field(description="Within the band, what the label would be without it.")
    probabilities: dict[str, float]
    tokens: int = Field(description="Number of tokens that were read.")
    truncated: bool = Field(description="Whether the text was longer than that.")
    attributions: Attributions | None = Field(description="With `explain`.")


class ClassifyResponse(BaseModel):
    model: str
    results: list[Classification] = Field(description="One for each text, in order.")
    usage: Usage = Field(description="Of the texts as read, without what `explain` reads again.")


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
    checkpoint: str = Field(
        description="The checkpoint's id: SHA-256 of its card; without a card, of its weights."
    )
    sha256: str = Field(
        description="SHA-256 of its file of weights; of several files, over their sorted hashes."
    )
    verified: bool = Field(
        description="Whether it was shown to answer as its card says. Another program's file has "
        "no card."
    )
    template: str | None = Field(
        description="How instructions and conversations are written for it; null if it has none "
        "that can be used."
    )
    base: str | None = Field(description="Of an adapter: the id of the base that it belongs to.")
    parameters: int = Field(description="Of the whole network, the adapter included.")
    adapter_parameters: int | None = Field(description="Of an adapter: how many are its own.")
    weights: str = Field(
        description="In what its base is held: int8 is 8 bits; int4 means that its file has "
        "weights of 4 bits, which are kept as they are, or that they were given 4 bits here; "
        "float32 and bfloat16 are not quantized."
    )
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
