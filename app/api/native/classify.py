"""POST /classify: say which label a text has."""

import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.documentation import WORK, Example
from app.api.fields import Band, PriorityFields, Texts
from app.api.native.explain import Attributions, classify_tokens, explain, tokens_to_explain
from app.api.prompts import TextPrompts
from app.api.responses import Usage, json_response
from app.engine.loading import ServedModel
from app.engine.service import ServiceDependency
from app.errors import Problem, beyond_context, invalid
from app.ops.context import reserve_tokens, use_priority
from app.settings import Settings
from model.classifier import UNSURE, Labels
from model.engine.request import Classified


class ClassifyRequest(PriorityFields):
    """Label a text, or several."""

    text: Texts = Field(description="A text, or a list of them; none may be empty.")
    truncate: bool = Field(
        False,
        description="Read only the beginning of a text that is longer than the model's context; "
        "otherwise such a text is an error.",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability from which a text gets the positive label, in place of the "
        "trained one. Only for a model with a positive label.",
    )
    explain: bool = Field(
        False,
        description="Say what each token contributes to the label: `attributions`. Reads each text "
        "about as many times as it has tokens; `--max-explain-tokens` bounds them.",
    )
    unsure_band: Band | None = Field(
        None,
        description="`[low, high]`: where the probability of the positive label, or for a model "
        "without one that of the most probable label, is at least `low` and below `high`, the "
        "label is `unsure`. By default as the server is set; `[]` is none.",
    )

    @property
    def texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text


CLASSIFY_EXAMPLES: dict[str, Example] = {
    "explain": {
        "summary": "Explain the label, or be unsure",
        "value": {
            "text": "Call now to claim your prize",
            "explain": True,
            "unsure_band": [0.2, 0.8],
        },
    },
    "text": {
        "summary": "One text",
        "value": {"text": "You have WON a free prize! Text WIN to 80086 to claim it now."},
    },
    "texts": {
        "summary": "Several texts",
        "value": {
            "text": ["Are we still meeting for lunch?", "FREE entry! Call 09061701461 now!"],
            "truncate": True,
        },
    },
}


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


router = APIRouter()


@router.post("/classify", response_model=ClassifyResponse, responses=WORK, tags=["models"])
async def classify(
    body: Annotated[ClassifyRequest, Body(openapi_examples=CLASSIFY_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Label a text, or several, with the labels of the model's training data."""
    model, settings = service.model("classify", body.model), service.settings
    assert model.head is not None  # checked when it was loaded
    use_priority(body.priority)
    labels = model.head.labels
    _check(body, model, labels, settings)
    band = _band(body, labels, settings)
    deadline = time.monotonic() + settings.request_timeout
    texts = _fit(model, await TextPrompts(body.texts, "text").encode(model), truncate=body.truncate)
    if body.explain:
        _check_lengths([tokens for tokens, _ in texts], settings.max_explain_tokens)
        reserve_tokens(sum(len(tokens) + tokens_to_explain(len(tokens)) for tokens, _ in texts))
    answers = await classify_tokens(model, [tokens for tokens, _ in texts], deadline)
    results: list[Classification] = []
    for answer, (tokens, truncated) in zip(answers, texts, strict=True):
        label = labels.decide(answer.probabilities, body.threshold)
        reasons = None
        if body.explain:
            of, begun = labels.positive or label, bool(results)
            reasons = await explain(model, tokens, answer, of, deadline, begun=begun)
        unsure = band is not None and labels.unsure(answer.probabilities, band)
        results.append(_result(labels, answer, label, truncated, reasons, unsure=unsure))
    total = sum(answer.prompt_tokens for answer in answers)
    response = ClassifyResponse(
        model=model.name,
        results=[],
        usage=Usage(
            prompt_tokens=total,
            completion_tokens=0,
            total_tokens=total,
            cached_tokens=sum(answer.cached_tokens for answer in answers),
        ),
    )
    return await json_response(response, results, large=True, member="results")


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
