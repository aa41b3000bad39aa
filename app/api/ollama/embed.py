"""POST /api/embed: `client.embed`."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, Discriminator, Field, RootModel, Tag
from starlette.responses import Response

from app.api.documentation import OLLAMA_WORK, Example
from app.api.embedding import embed, unit
from app.api.field_marks import IGNORED, Only, note_ignored
from app.api.fields import MOST_INPUTS, Fields, NonEmpty, Str, text_or_list
from app.api.ollama.generation import KeepAlive, nanoseconds
from app.api.ollama.names import untagged
from app.api.prompts import TextPrompts
from app.api.responses import json_response
from app.engine.service import ServiceDependency


class OllamaEmbedRequest(Fields):
    """Turn a text, or several, into vectors."""

    model: Str = Field(description="Name of a model, as /api/tags lists them, or without its tag.")
    input: Annotated[
        Annotated[NonEmpty, Tag("text")]
        | Annotated[
            list[NonEmpty],
            Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True),
            Tag("list"),
        ],
        Discriminator(text_or_list),
    ] = Field(description="A text, or a list of them.")
    truncate: bool | None = Field(
        False,
        description="Cut what is longer than the model's context. If not, that is an error; "
        "unlike Ollama, nothing is cut unless it is asked for.",
    )
    options: Annotated[dict[str, Any] | None, IGNORED] = None
    keep_alive: KeepAlive = None
    dimensions: Annotated[Any, Only(None)] = None


OLLAMA_EMBED_EXAMPLES: dict[str, Example] = {
    "texts": {
        "summary": "Two texts",
        "value": {"model": "base", "input": ["The old man", "The sea"]},
    }
}


class OllamaVector(RootModel[list[float]]):
    """Of length 1."""


class OllamaEmbedResponse(BaseModel):
    model: str
    embeddings: list[OllamaVector] = Field(description="One for each text, in order.")
    total_duration: int = Field(description="Nanoseconds.")
    load_duration: int = Field(description="Until the engine took the last of them up.")
    prompt_eval_count: int = Field(description="Tokens of all texts.")


router = APIRouter(prefix="/api", tags=["Ollama's API"])


@router.post("/embed", response_model=OllamaEmbedResponse, responses=OLLAMA_WORK)
async def ollama_embed(
    body: Annotated[OllamaEmbedRequest, Body(openapi_examples=OLLAMA_EMBED_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Texts as vectors, the means of a model's hidden states: `client.embed`."""
    started = time.monotonic()
    model = service.any_model(untagged(service, body.model))
    note_ignored(body)
    settings = service.settings
    texts = [body.input] if isinstance(body.input, str) else body.input
    tokens = await TextPrompts(texts, "input").encode(model)
    if body.truncate:
        tokens = [each[: model.context_length] for each in tokens]
    deadline = started + settings.request_timeout
    found = await embed(model, tokens, at_once=settings.max_batch, deadline=deadline)
    answer = OllamaEmbedResponse(
        model=model.name,
        embeddings=[],
        total_duration=nanoseconds(time.monotonic() - started),
        load_duration=nanoseconds(max(each.timings.queue for each in found)),
        prompt_eval_count=sum(each.prompt_tokens for each in found),
    )
    vectors = (OllamaVector(unit(each.values).tolist()) for each in found)
    return await json_response(answer, vectors, large=True, member="embeddings")
