"""POST /generate: continue one or several texts.

A stream has these events, as that of /instruct:

    data: {"index": 0, "text": "Once"}
    data: {"index": 0, "text": "", "finish_reason": "length", "usage": {…}, …}
    data: [DONE]

An error after the first byte is `event: error`, with a problem as its data, and the end.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.documentation import STREAM, WORK, Example
from app.api.fields import Prompts
from app.api.generation import GenerationOptions, run_generation
from app.api.native.sampling import SamplingFields
from app.api.prompts import TextPrompts
from app.api.responses import (
    Answer,
    Completion,
    Timings,
    Usage,
    encode_event,
    json_response,
    timings,
    usage,
)
from app.engine.service import ServiceDependency
from app.ops.context import use_priority
from model.engine.request import (
    Finished,
    FinishReason,
    Text,
    TokenLogprob,
)


class GenerateRequest(SamplingFields):
    """Continue a text, or several."""

    prompt: Prompts = Field(
        description="A text to continue, or a list of them. An empty one starts a new document: "
        "the model is then given its end token, which stands between documents."
    )
    temperature: float = Field(
        0.8,
        ge=0,
        le=100,
        description="0 always takes the most probable token; higher is more varied.",
    )
    n: int = Field(
        1,
        ge=1,
        le=8,
        description="Choices for each prompt; choice k of prompt p has the index p * n + k.",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Report the log-probability of each token and those of this many of the most "
        "probable ones; null reports none. They are the model's own, before temperature.",
    )

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def options(self) -> GenerationOptions:
        return self._options(self.temperature, self.n, self.logprobs)


GENERATE_EXAMPLES: dict[str, Example] = {
    "continue": {
        "summary": "Continue a text",
        "value": {"prompt": "Once upon a time", "max_new_tokens": 40, "seed": 1},
    },
    "choices": {
        "summary": "Two choices for each of two prompts",
        "value": {
            "prompt": ["The old man", "The sea"],
            "n": 2,
            "max_new_tokens": 20,
            "temperature": 0.7,
            "top_p": 0.95,
            "stop": ["\n"],
            "seed": 7,
        },
    },
    "json": {
        "summary": "JSON of a schema",
        "value": {
            "prompt": "A boy in the story, as JSON: ",
            "max_new_tokens": 80,
            "seed": 1,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "person",
                    "schema": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "maxLength": 20},
                            "age": {"type": "integer", "minimum": 0, "maximum": 120},
                        },
                        "required": ["name", "age"],
                        "additionalProperties": False,
                    },
                },
            },
        },
    },
    "stream": {
        "summary": "Stream",
        "value": {"prompt": "In the morning", "max_new_tokens": 40, "stream": True},
    },
}


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


router = APIRouter()


@router.post("/generate", response_model=GenerateResponse, responses=WORK | STREAM, tags=["models"])
async def generate(
    body: Annotated[GenerateRequest, Body(openapi_examples=GENERATE_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Continue a text, or several, in one or several ways.

    With `stream`, the answer is `text/event-stream`: events with `index` and `text`; for each
    choice a last one with `finish_reason`, the very last with `usage`; then `data: [DONE]`. An
    error after the first byte is an `event: error` with a problem as its data.
    """
    model = service.model("generate", body.model)
    use_priority(body.priority)
    prompts = TextPrompts(body.prompts, "prompt")
    return await run_generation(service, model, prompts, body.options, GenerateAnswer)


def logprobs_json(values: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            "token": value.token,
            "text": value.text,
            "logprob": value.logprob,
            "top": [
                {"token": token, "text": text, "logprob": logprob}
                for token, text, logprob in value.top
            ],
            "forced": value.forced,
        }
        for value in values
    ]


class NativeAnswer(Answer):
    """The events of /generate and /instruct."""

    error_name = "error"

    def text(self, index: int, event: Text) -> bytes:
        data: dict[str, Any] = {"index": index, "text": event.text}
        if self.generation.logprobs:
            data["logprobs"] = logprobs_json(event.logprobs)
        return encode_event(data)

    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        data = {"index": index, "text": "", "finish_reason": event.reason}
        if ends is not None:
            data["id"] = self.generation.id
            data["model"] = self.generation.model.name
            data["usage"] = usage(self.generation, ends).model_dump()
            data["timings"] = timings(ends).model_dump()
        return encode_event(data)


class GenerateAnswer(NativeAnswer):
    async def whole(self, completions: Sequence[Completion]) -> Response:
        ends = [completion.finished for completion in completions]
        answer = GenerateResponse(
            id=self.generation.id,
            model=self.generation.model.name,
            choices=[],
            usage=usage(self.generation, ends),
            timings=timings(ends),
        )
        logprobs = self.generation.logprobs
        choices = (
            Choice(
                index=index,
                text=completion.text,
                finish_reason=completion.finished.reason,
                logprobs=_logprobs(completion) if logprobs else None,
            )
            for index, completion in enumerate(completions)
        )
        return await json_response(answer, choices, large=logprobs)


def _logprobs(completion: Completion) -> list[TokenLogprobs]:
    return [TokenLogprobs.model_validate(value) for value in logprobs_json(completion.logprobs)]
