"""POST /instruct: follow an instruction."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from app.api.documentation import STREAM, WORK, Example
from app.api.fields import NonEmpty, Str
from app.api.generation import GenerationOptions, run_generation
from app.api.native.generate import NativeAnswer
from app.api.native.sampling import SamplingFields
from app.api.prompts import ChatPrompt
from app.api.responses import Completion, Timings, Usage, timings, usage
from app.engine.service import ServiceDependency
from app.ops.context import use_priority
from model.engine.request import FinishReason
from model.prompts import Message


class InstructRequest(SamplingFields):
    """Follow an instruction."""

    instruction: NonEmpty = Field(description="What to do.")
    input: Str = Field("", description="The text to do it with, if the instruction needs one.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=100,
        description="0 always takes the most probable token; higher is more varied.",
    )

    @property
    def options(self) -> GenerationOptions:
        return self._options(self.temperature)


INSTRUCT_EXAMPLES: dict[str, Example] = {
    "instruction": {
        "summary": "An instruction with an input",
        "value": {
            "instruction": "Rewrite the sentence in the past tense.",
            "input": "She walks to school.",
        },
    },
    "choice": {
        "summary": "One of several answers",
        "value": {
            "instruction": "Is the sentence about the past, the present or the future?",
            "input": "She walked to school.",
            "response_format": {"type": "choice", "choices": ["past", "present", "future"]},
        },
    },
    "stream": {
        "summary": "Stream",
        "value": {"instruction": "Name a synonym of 'happy'.", "stream": True},
    },
}


class InstructResponse(BaseModel):
    id: str
    model: str
    response: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


router = APIRouter()


@router.post("/instruct", response_model=InstructResponse, responses=WORK | STREAM, tags=["models"])
async def instruct(
    body: Annotated[InstructRequest, Body(openapi_examples=INSTRUCT_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Follow an instruction, with an input if it needs one. Streams as /generate does."""
    model = service.model("instruct", body.model)
    use_priority(body.priority)
    prompt = ChatPrompt([Message("user", body.instruction, body.input)], "instruction")
    return await run_generation(service, model, prompt, body.options, InstructAnswer)


class InstructAnswer(NativeAnswer):
    async def whole(self, completions: Sequence[Completion]) -> Response:
        [completion] = completions
        answer = InstructResponse(
            id=self.generation.id,
            model=self.generation.model.name,
            response=completion.text,
            finish_reason=completion.finished.reason,
            usage=usage(self.generation, [completion.finished]),
            timings=timings([completion.finished]),
        )
        return Response(answer.model_dump_json(), media_type=JSONResponse.media_type)
