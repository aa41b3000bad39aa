"""POST /generate: continue one or several texts."""

import time
from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import Response

from app.api.documentation import STREAM, WORK
from app.api.generation import check_batch, collect, encode, logprobs_json, plan, timings, usage
from app.api.native.answers import Choice, GenerateResponse, TokenLogprobs
from app.api.native.examples import GENERATE_EXAMPLES
from app.api.native.sampling import GenerateRequest
from app.api.responses import start_stream
from app.api.whole import whole
from app.engine.constraint_compiler import constrained
from app.engine.service import ServiceDependency

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
    check_batch(len(body.prompts), body.n, service.settings.max_batch)
    deadline = time.monotonic() + service.settings.request_timeout
    prompts = await encode(model, body.prompts, documents=True)
    options = await constrained(
        model.dispatcher.compiler,
        body.options,
        body.response_format,
        prompts=len(prompts),
        deadline=deadline,
    )
    generation = plan(model, prompts, options, deadline=deadline)
    if body.stream:
        return await start_stream(generation)
    completions = await collect(generation)
    ends = [completion.finished for completion in completions]
    answer = GenerateResponse(
        id=generation.id,
        model=model.name,
        choices=[],
        usage=usage(generation, ends),
        timings=timings(ends),
    )
    choices = (
        Choice(
            index=index,
            text=completion.text,
            finish_reason=completion.finished.reason,
            logprobs=[
                TokenLogprobs.model_validate(value) for value in logprobs_json(completion.logprobs)
            ]
            if generation.logprobs
            else None,
        )
        for index, completion in enumerate(completions)
    )
    return await whole(answer, choices, large=generation.logprobs)
