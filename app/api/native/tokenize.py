"""POST /tokenize and /detokenize: what the models read in place of text."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from app.api.documentation import Example, problems
from app.api.fields import MOST_TOKENS, RequestBody, Str
from app.api.prompts import TextPrompts
from app.engine.service import ServiceDependency
from app.errors import invalid
from model.tokenizer import Tokenizer


class TokenizeRequest(RequestBody):
    """Turn a text into token ids."""

    text: Str = Field(description="The text; all of it is taken as ordinary text.")


class DetokenizeRequest(RequestBody):
    """Turn token ids into a text."""

    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        max_length=MOST_TOKENS, fail_fast=True, description="Token ids of the vocabulary."
    )


TOKENIZE_EXAMPLES: dict[str, Example] = {
    "text": {"summary": "A text", "value": {"text": "Hello, world!"}}
}


DETOKENIZE_EXAMPLES: dict[str, Example] = {
    "tokens": {"summary": "Some tokens", "value": {"tokens": [72, 101, 108, 108, 111]}}
}


class TokenizeResponse(BaseModel):
    model: str
    tokens: list[int]


class DetokenizeResponse(BaseModel):
    model: str
    text: str


_MANY_TOKENS = 50_000
"""From which decoding or writing takes long enough (a few ms) to leave the event loop for it."""
router = APIRouter(tags=["tokens"], responses=problems(400, 404, 408, 413, 415, 422, 503))


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(
    body: Annotated[TokenizeRequest, Body(openapi_examples=TOKENIZE_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """The token ids of a text, as the model reads it: after the token that begins every text, if
    the model has one."""
    model = service.any_model(body.model)
    [tokens] = await TextPrompts([body.text], "text").encode(model)
    content = {"model": model.name, "tokens": tokens}
    if len(tokens) > _MANY_TOKENS:
        return await asyncio.to_thread(JSONResponse, content)
    return JSONResponse(content)


@router.post("/detokenize", response_model=DetokenizeResponse)
async def detokenize(
    body: Annotated[DetokenizeRequest, Body(openapi_examples=DETOKENIZE_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """The text of token ids: special tokens have none, and bytes that are no whole character become
    U+FFFD."""
    model = service.any_model(body.model)
    arguments = model.name, model.base.tokenizer, body.tokens
    if len(body.tokens) > _MANY_TOKENS:
        return await asyncio.to_thread(_detokenized, *arguments)
    return _detokenized(*arguments)


def _detokenized(name: str, tokenizer: Tokenizer, tokens: list[int]) -> Response:
    return JSONResponse({"model": name, "text": _decode(tokenizer, tokens)})


def _decode(tokenizer: Tokenizer, tokens: list[int]) -> str:
    for place, token in enumerate(tokens):
        if token >= tokenizer.vocab_size:
            raise invalid(
                f"tokens[{place}]",
                f"is no token; the vocabulary ends at {tokenizer.vocab_size - 1}",
                token,
            )
    try:
        return tokenizer.decode(tokens)
    except KeyError:
        raise invalid("tokens", "has an id that is no token of the vocabulary") from None
