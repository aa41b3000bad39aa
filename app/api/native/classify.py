"""POST /classify: say which label a text has."""

import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body

from app.api.documentation import WORK
from app.api.generation import encode
from app.api.native.answers import Attributions, Classification, ClassifyResponse, Usage
from app.api.native.examples import CLASSIFY_EXAMPLES
from app.api.native.explain import classify_tokens, explain
from app.api.native.sampling import ClassifyRequest
from app.engine.loading import ServedModel
from app.engine.service import ServiceDependency
from app.errors import Problem, beyond_context, invalid
from app.settings import Settings
from model.classifier import UNSURE, Labels
from model.engine.request import Classified

router = APIRouter()


@router.post("/classify", responses=WORK, tags=["models"])
async def classify(
    body: Annotated[ClassifyRequest, Body(openapi_examples=CLASSIFY_EXAMPLES)],
    service: ServiceDependency,
) -> ClassifyResponse:
    """Label a text, or several, with the labels of the model's training data."""
    model, settings = service.model("classify", body.model), service.settings
    assert model.head is not None  # checked when it was loaded
    labels = model.head.labels
    _check(body, model, labels, settings)
    band = _band(body, labels, settings)
    deadline = time.monotonic() + settings.request_timeout
    texts = _fit(model, await encode(model, body.texts, documents=True), truncate=body.truncate)
    if body.explain:
        _check_lengths([tokens for tokens, _ in texts], settings.max_explain_tokens)
    answers = await classify_tokens(model, [tokens for tokens, _ in texts], deadline)
    results = []
    for answer, (tokens, truncated) in zip(answers, texts, strict=True):
        label = labels.decide(answer.probabilities, body.threshold)
        reasons = None
        if body.explain:
            reasons = await explain(model, tokens, answer, labels.positive or label, deadline)
        unsure = band is not None and labels.unsure(answer.probabilities, band)
        results.append(_result(labels, answer, label, truncated, reasons, unsure=unsure))
    total = sum(answer.prompt_tokens for answer in answers)
    return ClassifyResponse(
        model=model.name,
        results=results,
        usage=Usage(
            prompt_tokens=total,
            completion_tokens=0,
            total_tokens=total,
            cached_tokens=sum(answer.cached_tokens for answer in answers),
        ),
    )


def _check(body: ClassifyRequest, model: ServedModel, labels: Labels, settings: Settings) -> None:
    """Refuse what this model cannot do, and too many texts."""
    if body.threshold is not None and labels.positive is None:
        raise invalid(
            "threshold",
            f"model {model.name!r} has no positive label that a threshold could be for",
            body.threshold,
        )
    if len(body.texts) > settings.max_batch:
        raise invalid("text", f"has {len(body.texts)} texts; at most {settings.max_batch} together")


def _band(body: ClassifyRequest, labels: Labels, settings: Settings) -> tuple[float, float] | None:
    """The band in which the answer is `unsure`: the request's, or the server's."""
    if body.unsure_band is None:
        return settings.unsure_band
    if not body.unsure_band:
        return None
    if UNSURE in labels.names:
        raise invalid("unsure_band", f"cannot be used: the model has a label {UNSURE!r} of its own")
    low, high = body.unsure_band
    return low, high


def _fit(
    model: ServedModel, texts: Sequence[list[int]], *, truncate: bool
) -> list[tuple[list[int], bool]]:
    """Tokens of each text that are read, and whether that is not all of them."""
    limit = model.context_length
    for number, tokens in enumerate(texts):
        if len(tokens) > limit and not truncate:
            advice = "`truncate: true` reads its beginning"
            raise beyond_context("text", number, len(tokens), limit, advice)
    return [(tokens[:limit], len(tokens) > limit) for tokens in texts]


def _check_lengths(texts: Sequence[Sequence[int]], limit: int) -> None:
    """Refuse to explain a text that is too long for it."""
    for number, tokens in enumerate(texts):
        if len(tokens) > limit:
            raise Problem(
                400,
                "explain-length",
                f"text {number} has {len(tokens)} tokens to explain; at most {limit} "
                "(--max-explain-tokens)",
                extra={"text_tokens": len(tokens), "max_explain_tokens": limit},
            )


def _result(
    labels: Labels,
    answer: Classified,
    label: str,
    truncated: bool,
    attributions: Attributions | None,
    *,
    unsure: bool,
) -> Classification:
    probabilities = dict(zip(labels.names, answer.probabilities, strict=True))
    return Classification(
        label=UNSURE if unsure else label,
        score=probabilities[label],
        leaning=label if unsure else None,
        probabilities=probabilities,
        tokens=answer.prompt_tokens,
        truncated=truncated,
        attributions=attributions,
    )
