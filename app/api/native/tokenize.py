"""POST /tokenize and /detokenize: what the models read in place of text."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body

from app.api.documentation import problems
from app.api.generation import encode
from app.api.native.answers import DetokenizeResponse, TokenizeResponse
from app.api.native.examples import DETOKENIZE_EXAMPLES, TOKENIZE_EXAMPLES
from app.api.native.sampling import DetokenizeRequest, TokenizeRequest
from app.engine.service import ServiceDependency
from app.errors import invalid
from model.tokenizer import Tokenizer

_MANY_TOKENS = 50_000
"""From which decoding takes long enough (a few ms) to leave the event loop for it."""

router = APIRouter(tags=["tokens"], responses=problems(400, 404, 408, 413, 422, 503))


@router.post("/tokenize")
async def tokenize(
    body: Annotated[TokenizeRequest, Body(openapi_examples=TOKENIZE_EXAMPLES)],
    service: ServiceDependency,
) -> TokenizeResponse:
    """The token ids of a text, as the model reads it: after the token that begins every text, if
    the model has one."""
    model = service.any_model(body.model)
    [tokens] = await encode(model, [body.text], documents=True)
    return TokenizeResponse(model=model.name, tokens=tokens)


@router.post("/detokenize")
async def detokenize(
    body: Annotated[DetokenizeRequest, Body(openapi_examples=DETOKENIZE_EXAMPLES)],
    service: ServiceDependency,
) -> DetokenizeResponse:
    """The text of token ids: special tokens have none, and bytes that are no whole character become
    U+FFFD."""
    model = service.any_model(body.model)
    if len(body.tokens) > _MANY_TOKENS:
        text = await asyncio.to_thread(_decode, model.base.tokenizer, body.tokens)
    else:
        text = _decode(model.base.tokenizer, body.tokens)
    return DetokenizeResponse(model=model.name, text=text)


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
