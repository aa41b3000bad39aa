"""POST /v1/embeddings: texts as vectors.

Each is the mean of the model's hidden states, scaled to length 1.
"""

import base64
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.documentation import OPENAI_WORK, Example
from app.api.embedding import Vector, embed, unit
from app.api.field_marks import Only
from app.api.fields import RequestBody, User
from app.api.openai.parameters import Inputs, one_or_many
from app.api.prompts import TextPrompts, TextsOrTokens
from app.api.responses import json_response
from app.engine.service import ServiceDependency
from app.ops.context import note_user


class EmbeddingRequest(RequestBody):
    """Turn a text, or several, into vectors."""

    input: Inputs = Field(
        description="A text or its token ids, or a list of them; none is empty or longer than the "
        "model's context."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        "float", description="Numbers; or, as base64, the bytes of little-endian fp32 numbers."
    )
    dimensions: Annotated[Any, Only(None)] = None
    user: User | None = Field(None, description="Who asks; it is written to the access log.")

    @property
    def inputs(self) -> TextsOrTokens:
        return one_or_many(self.input)


EMBEDDING_EXAMPLES: dict[str, Example] = {
    "texts": {
        "summary": "Two texts",
        "value": {"model": "base", "input": ["The old man", "The sea"]},
    }
}


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Of length 1. A text is base64.")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Embedding] = Field(description="One for each input, in order.")
    usage: EmbeddingUsage


router = APIRouter(prefix="/v1", tags=["OpenAI's API"])


@router.post("/embeddings", response_model=EmbeddingResponse, responses=OPENAI_WORK)
async def embeddings(
    body: Annotated[EmbeddingRequest, Body(openapi_examples=EMBEDDING_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Texts as vectors, the means of a model's hidden states: `client.embeddings.create`."""
    note_user(body.user)
    model = service.any_model(body.model)
    settings = service.settings
    deadline = time.monotonic() + settings.request_timeout
    tokens = await TextPrompts(body.inputs, "input").encode(model)
    found = await embed(model, tokens, at_once=settings.max_batch, deadline=deadline)
    count = sum(each.prompt_tokens for each in found)
    usage = EmbeddingUsage(prompt_tokens=count, total_tokens=count)
    answer = EmbeddingResponse(object="list", model=model.name, data=[], usage=usage)
    form = body.encoding_format or "float"
    data = (
        Embedding(object="embedding", index=index, embedding=encoded(unit(each.values), form))
        for index, each in enumerate(found)
    )
    # Thousands of texts are millions of numbers.
    return await json_response(answer, data, large=True, member="data")


def encoded(vector: Vector, form: str) -> list[float] | str:
    """A vector as numbers, or as base64 of its bytes."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
