"""POST /classify: say which label a text has."""

import time
import uuid
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body

from app.answers import Classification, ClassifyResponse, Usage
from app.errors import Problem, invalid
from app.examples import CLASSIFY_EXAMPLES
from app.generation import encode
from app.loading import ServedModel
from app.routes.problems import WORK
from app.schemas import ClassifyRequest
from app.service import ServiceDependency
from model.classifier import Labels
from model.engine.request import Classified, Classify, Request

router = APIRouter()


@router.post("/classify", responses=WORK, tags=["models"])
async def classify(
    body: Annotated[ClassifyRequest, Body(openapi_examples=CLASSIFY_EXAMPLES)],
    service: ServiceDependency,
) -> ClassifyResponse:
    """Label a text, or several, with the labels of the model's training data."""
    model = service.model("classify", body.model)
    assert model.head is not None  # checked when it was loaded
    labels = model.head.labels
    if body.threshold is not None and labels.positive is None:
        raise invalid(
            "threshold",
            f"model {model.name!r} has no positive label that a threshold could be for",
            body.threshold,
        )
    if len(body.texts) > service.settings.max_batch:
        raise invalid(
            "text", f"has {len(body.texts)} texts; at most {service.settings.max_batch} together"
        )
    tokens = _fit(model, await encode(model, body.texts), truncate=body.truncate)
    classified = await _classify(model, tokens, service.settings.request_timeout)
    total = sum(event.prompt_tokens for event in classified)
    return ClassifyResponse(
        model=model.name,
        results=[
            _result(labels, event, truncated, body.threshold)
            for event, (_, truncated) in zip(classified, tokens, strict=True)
        ],
        usage=Usage(
            prompt_tokens=total,
            completion_tokens=0,
            total_tokens=total,
            cached_tokens=sum(event.cached_tokens for event in classified),
        ),
    )


def _fit(
    model: ServedModel, texts: Sequence[list[int]], *, truncate: bool
) -> list[tuple[list[int], bool]]:
    """Tokens of each text that are read, and whether that is not all of them."""
    limit = model.context_length
    for number, tokens in enumerate(texts):
        if len(tokens) > limit and not truncate:
            raise Problem(
                400,
                "context-length",
                f"text {number} has {len(tokens)} tokens, more than the model's context of "
                f"{limit}; `truncate: true` reads its beginning",
                extra={"text_tokens": len(tokens), "context_length": limit},
            )
    return [(tokens[:limit], len(tokens) > limit) for tokens in texts]


async def _classify(
    model: ServedModel, tokens: Sequence[tuple[list[int], bool]], timeout: float
) -> list[Classified]:
    identity = uuid.uuid4().hex
    deadline = time.monotonic() + timeout
    requests = [
        Request(f"{identity}-{number}", tuple(read), Classify(), model.adapter_name, deadline)
        for number, (read, _) in enumerate(tokens)
    ]
    results: dict[int, Classified] = {}
    with model.dispatcher.open(requests) as job:
        async for index, event in job:
            assert isinstance(event, Classified)
            results[index] = event
    return [results[index] for index in range(len(requests))]


def _result(
    labels: Labels, event: Classified, truncated: bool, threshold: float | None
) -> Classification:
    label = labels.decide(event.probabilities, threshold)
    probabilities = dict(zip(labels.names, event.probabilities, strict=True))
    return Classification(
        label=label,
        score=probabilities[label],
        probabilities=probabilities,
        tokens=event.prompt_tokens,
        truncated=truncated,
    )
