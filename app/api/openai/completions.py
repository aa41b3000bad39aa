"""POST /v1/completions: `client.completions.create`."""

import time
import uuid
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.documentation import OPENAI_WORK, STREAM, Example
from app.api.field_marks import Only
from app.api.fields import MOST_TOKENS
from app.api.generation import GenerationOptions, check_batch, or_begin, run_generation
from app.api.openai.echo import PromptLogprob, cut, prompt_logprobs, prompt_text, score_prompts
from app.api.openai.generation import (
    FinishReason,
    OpenAIAnswer,
    SamplingFields,
    Usage,
    finish_reason,
)
from app.api.openai.logprobs import CompletionLogprobs, LogprobsWriter
from app.api.openai.parameters import Prompts, one_or_many
from app.api.prompts import TextPrompts, TextsOrTokens
from app.api.responses import Completion, Generation, json_response
from app.engine.loading import ServedModel
from app.engine.service import Service, ServiceDependency
from app.errors import invalid
from app.keys.limits import most_tokens
from app.ops.context import note_user, reserve_tokens
from model.engine.request import Request, Score, Scored, Text

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions."""
MOST_SCORED = 16
"""Prompts that are handed to the engine together to be scored."""


class CompletionRequest(SamplingFields):
    """Continue a text, or several."""

    prompt: Prompts | None = Field(
        description="A text or its token ids, or a list of them. An empty text, or null, starts a "
        "new document."
    )
    echo: bool | None = Field(
        False,
        description="Begin the text with the prompt; with `logprobs`, have the log-probabilities "
        "of its tokens, too.",
    )
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = Field(
        None,
        description="Most tokens to generate. If given, the prompt and as many tokens must fit "
        f"the model's context; if not, it is {DEFAULT_COMPLETION_TOKENS} or what the context has "
        "room for. 0 is for `echo` and `prompt_logprobs` alone.",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Report the log-probability of each token and those of this many of the most "
        "probable ones. They are the model's own, before temperature.",
    )
    prompt_logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Report the log-probability of each token of the prompt and those of this many "
        "of the most probable ones, by their ids, as vLLM does.",
    )
    best_of: Annotated[Any, Only(None, 1)] = None
    suffix: Annotated[Any, Only(None, "")] = None

    @property
    def generates(self) -> bool:
        """Whether anything is to follow the prompts."""
        return self.max_tokens != 0

    @property
    def scores_top(self) -> int | None:
        """Of how many most probable tokens the prompts' scores are wanted; None is no scores."""
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((top for top in wanted if top is not None), default=None)

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


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = Field(
        None, description="Of each token of the prompt, by id; the first has none."
    )


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
    _check(body)
    prompts = TextPrompts(body.prompts, "prompt")
    if not body.generates:
        return await _echo_alone(service, model, prompts, body)
    deadline = time.monotonic() + service.settings.request_timeout
    make_answer = partial(CompletionAnswer, body=body, deadline=deadline)
    return await run_generation(service, model, prompts, body.options, make_answer)


def _check(body: CompletionRequest) -> None:
    """Refuse fields that do not go together."""
    if not body.generates and not body.echo and body.prompt_logprobs is None:
        message = "is for `echo` or `prompt_logprobs`; without them it asks for nothing"
        raise invalid("max_tokens", message, body.max_tokens)
    if body.stream and (body.scores_top is not None or not body.generates):
        message = "is for what is generated: the prompt's log-probabilities, and `echo` with "
        raise invalid("stream", message + "`max_tokens` 0, come in one piece", body.stream)


async def _echo_alone(
    service: Service, model: ServedModel, prompts: TextPrompts, body: CompletionRequest
) -> Response:
    """The prompts, and nothing after them."""
    check_batch(prompts, body.n or 1, service.settings.max_batch)
    deadline = time.monotonic() + service.settings.request_timeout
    tokens = await prompts.encode(model)
    requests = [Request("", or_begin(model, each), Score()) for each in tokens]
    generation = Generation(uuid.uuid4().hex, model, requests, 1, body.logprobs is not None)
    answer = CompletionAnswer(generation, body=body, deadline=deadline)
    return await answer.echoed()


class CompletionAnswer(OpenAIAnswer):
    """
    Args:
        deadline: of what is still to be done when the texts are generated; on the clock of
            `time.monotonic`.
    """

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(self, generation: Generation, *, body: CompletionRequest, deadline: float) -> None:
        super().__init__(generation, body.include_usage)
        self._body, self._deadline = body, deadline
        base = generation.model.base
        self._prompts = [each.tokens for each in generation.requests[:: generation.choices]]
        self._echoes = [""] * len(self._prompts)
        if body.echo:
            texts = body.prompts
            self._echoes = [
                text if isinstance(text, str) else prompt_text(base, text) for text in texts
            ]
        self._logprobs = [LogprobsWriter(base) for _ in generation.requests]
        self._begun: set[int] = set()
        if body.scores_top is not None:
            # All of it or nothing: the prompts are computed once more to be scored.
            made = most_tokens(generation.requests) if body.generates else 0
            reserve_tokens(made + sum(map(len, self._prompts)))

    async def whole(self, completions: Sequence[Completion]) -> Response:
        scores = await self._scores(begun=True)
        usage = self.usage([completion.finished for completion in completions])
        choices = (
            self._choice(index, each, scores[index // self.generation.choices] if scores else None)
            for index, each in enumerate(completions)
        )
        return await self._response(usage, choices, large=self.generation.logprobs or bool(scores))

    async def echoed(self) -> Response:
        """The prompts alone, `n` times each."""
        scores = await self._scores(begun=False)
        copies = self._body.n or 1
        usage = self.usage([])
        choices = (
            self._choice(index, None, scores[index // copies] if scores else None, copies)
            for index in range(len(self._prompts) * copies)
        )
        return await self._response(usage, choices, large=bool(scores))

    async def _scores(self, *, begun: bool) -> list[Scored]:
        """Of each prompt, if that is asked for."""
        top = self._body.scores_top
        if top is None:
            return []
        model = self.generation.model
        return await score_prompts(
            model, self._prompts, top, at_once=MOST_SCORED, deadline=self._deadline, begun=begun
        )

    async def _response(
        self, usage: Usage, choices: Iterable[CompletionChoice], *, large: bool
    ) -> Response:
        answer = CompletionResponse(**self.head(self.kind), choices=[], usage=usage)
        return await json_response(answer, choices, large=large)

    def _choice(
        self, index: int, each: Completion | None, scored: Scored | None, copies: int = 0
    ) -> CompletionChoice:
        """
        Args:
            each: what was generated.
            scored: the tokens of its prompt, if that is asked for.
            copies: choices of a prompt, where nothing was generated.
        """
        body, prompt = self._body, index // (copies or self.generation.choices)
        logprobs = None
        if body.logprobs is not None:
            writer = LogprobsWriter(self.generation.model.base)
            generated = each.logprobs if each else ()
            if body.echo and scored is not None:
                echoed = writer.take_prompt(self._prompts[prompt], cut(scored, body.logprobs))
                logprobs = echoed.followed_by(writer.take(generated))
            else:
                logprobs = writer.take(generated)
        return CompletionChoice(
            index=index,
            text=self._echoes[prompt] + (each.text if each else ""),
            logprobs=logprobs,
            finish_reason=finish_reason(each.finished) if each else "length",
            prompt_logprobs=prompt_logprobs(cut(scored, body.prompt_logprobs))
            if scored is not None and body.prompt_logprobs is not None
            else None,
        )

    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        echo = ""
        if index not in self._begun:
            self._begun.add(index)
            echo = self._echoes[index // self.generation.choices]
        if event is None:
            return {"text": echo, "logprobs": None}
        logprobs = None
        if self.generation.logprobs:
            logprobs = self._logprobs[index].take(event.logprobs).model_dump()
        return {"text": echo + event.text, "logprobs": logprobs}
