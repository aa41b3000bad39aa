"""POST /v1/completions: `client.completions.create`."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.documentation import OPENAI_WORK, STREAM, Example
from app.api.field_marks import Only
from app.api.fields import NewTokens
from app.api.generation import GenerationOptions, run_generation
from app.api.openai.generation import (
    FinishReason,
    OpenAIAnswer,
    SamplingFields,
    Usage,
    finish_reason,
)
from app.api.openai.parameters import Prompts, one_or_many
from app.api.prompts import TextPrompts, TextsOrTokens
from app.api.responses import Completion, Generation, json_response
from app.engine.service import ServiceDependency
from app.ops.context import note_user
from model.checkpoint import Base
from model.engine.request import Text, TokenLogprob
from model.tokenizer import StreamDecoder, Tokenizer

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions."""


class CompletionRequest(SamplingFields):
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
    def prompts(self) -> TextsOrTokens:
        return one_or_many("" if self.prompt is None else self.prompt)

    @property
    def options(self) -> GenerationOptions:
        return self._options(
            "max_tokens", self.max_tokens, DEFAULT_COMPLETION_TOKENS, self.logprobs
        )


COMPLETION_EXAMPLES: dict[str, Example] = {
    "text": {
        "summary": "Continue a text",
        "value": {"model": "base", "prompt": "Once upon a time", "max_tokens": 40, "seed": 1},
    },
    "stream": {
        "summary": "Stream, with the numbers of tokens at the end",
        "value": {
            "model": "base",
            "prompt": "In the morning",
            "max_tokens": 40,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
}


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


router = APIRouter(prefix="/v1", tags=["OpenAI's API"])


@router.post("/completions", response_model=CompletionResponse, responses=OPENAI_WORK | STREAM)
async def completions(
    body: Annotated[CompletionRequest, Body(openapi_examples=COMPLETION_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Continue a text, or several: `client.completions.create`."""
    model = service.model("generate", body.model)
    note_user(body.user)
    prompts = TextPrompts(body.prompts, "prompt")
    make_answer = partial(CompletionAnswer, include_usage=body.include_usage)
    return await run_generation(service, model, prompts, body.options, make_answer)


class LogprobsWriter:
    """Log-probabilities of one sequence of a completion, as its tokens come."""

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


class CompletionAnswer(OpenAIAnswer):
    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(self, generation: Generation, include_usage: bool) -> None:
        super().__init__(generation, include_usage)
        self._logprobs = [LogprobsWriter(generation.model.base) for _ in generation.requests]

    async def whole(self, completions: Sequence[Completion]) -> Response:
        answer = CompletionResponse(
            **self.head(self.kind),
            choices=[],
            usage=self.usage([completion.finished for completion in completions]),
        )
        logprobs = self.generation.logprobs
        choices = (
            CompletionChoice(
                index=index,
                text=each.text,
                logprobs=self._logprobs[index].take(each.logprobs) if logprobs else None,
                finish_reason=finish_reason(each.finished),
            )
            for index, each in enumerate(completions)
        )
        return await json_response(answer, choices, large=logprobs)

    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        if event is None:
            return {"text": "", "logprobs": None}
        logprobs = None
        if self.generation.logprobs:
            logprobs = self._logprobs[index].take(event.logprobs).model_dump()
        return {"text": event.text, "logprobs": logprobs}
