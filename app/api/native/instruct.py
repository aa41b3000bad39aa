"""POST /instruct: follow an instruction."""

import time
from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import Response

from app.api.documentation import STREAM, WORK
from app.api.generation import collect, encode_chat, plan, timings, usage
from app.api.native.answers import InstructResponse
from app.api.native.examples import INSTRUCT_EXAMPLES
from app.api.native.sampling import InstructRequest
from app.api.responses import start_stream
from app.engine.constraint_compiler import constrained
from app.engine.service import ServiceDependency
from model.prompts import Message

router = APIRouter()


@router.post("/instruct", response_model=InstructResponse, responses=WORK | STREAM, tags=["models"])
async def instruct(
    body: Annotated[InstructRequest, Body(openapi_examples=INSTRUCT_EXAMPLES)],
    service: ServiceDependency,
) -> Response | InstructResponse:
    """Follow an instruction, with an input if it needs one. Streams as /generate does."""
    model = service.model("instruct", body.model)
    deadline = time.monotonic() + service.settings.request_timeout
    prompts = await encode_chat(
        model, [Message("user", body.instruction, body.input)], "instruction"
    )
    options = await constrained(
        model.dispatcher.compiler, body.options, body.response_format, prompts=1, deadline=deadline
    )
    generation = plan(model, prompts, options, deadline=deadline)
    if body.stream:
        return await start_stream(generation)
    [completion] = await collect(generation)
    return InstructResponse(
        id=generation.id,
        model=model.name,
        response=completion.text,
        finish_reason=completion.finished.reason,
        usage=usage(generation, [completion.finished]),
        timings=timings([completion.finished]),
    )
