"""POST /tokenize and /detokenize, GET /tokenizer_info: what the models read in place of text.

The fields that vLLM has besides are there for programs that measure models (`lm_eval`), and take a
tokenizer from whoever serves the model.
"""

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

    text: Str | None = Field(None, description="The text; all of it is taken as ordinary text.")
    prompt: Str | None = Field(
        None,
        description="The same as vLLM calls it; but one that is the name of a special token, and "
        "nothing else, is that token.",
    )
    add_special_tokens: bool = Field(
        True, description="Whether the token that begins every text comes first, if there is one."
    )


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
    count: int
    max_model_len: int = Field(description="Tokens of the model's context.")


class DetokenizeResponse(BaseModel):
    model: str
    text: str
    prompt: str = Field(description="The same as vLLM calls it.")


class TokenizerInfo(BaseModel):
    """As `tokenizer_config.json` has it."""

    model: str
    tokenizer_class: str
    vocab_size: int = Field(description="The largest id and one.")
    model_max_length: int
    bos_token: str | None
    eos_token: str = Field(description="Ends a document.")
    pad_token: str | None
    chat_template: str | None = Field(description="In Jinja.")


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
    if (body.text is None) == (body.prompt is None):
        raise invalid("text", "give this or `prompt`, one of them")
    tokenizer = model.base.tokenizer
    special = tokenizer.special_tokens.get(body.prompt or "")
    if special is not None:
        tokens = [special]
    else:
        field, text = ("text", body.text) if body.prompt is None else ("prompt", body.prompt)
        [tokens] = await TextPrompts([text or ""], field).encode(model)
        tokens = tokens if body.add_special_tokens else tokens[len(tokenizer.prefix) :]
    content = {
        "model": model.name,
        "tokens": tokens,
        "count": len(tokens),
        "max_model_len": model.context_length,
    }
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


@router.head("/tokenizer_info", include_in_schema=False)
@router.get("/tokenizer_info", response_model=TokenizerInfo)
async def tokenizer_info(service: ServiceDependency, model: str | None = None) -> TokenizerInfo:
    """What a program has to know of a model's tokenizer."""
    served = service.any_model(model)
    tokenizer, template = served.base.tokenizer, served.template
    names = {token: name for name, token in tokenizer.special_tokens.items()}

    def name(token: int | None) -> str | None:
        return None if token is None else names.get(token)

    return TokenizerInfo(
        model=served.name,
        tokenizer_class="PreTrainedTokenizerFast",
        vocab_size=tokenizer.vocab_size,
        model_max_length=served.context_length,
        bos_token=name(tokenizer.special.beginning),
        eos_token=tokenizer.token_name(tokenizer.end_token),
        pad_token=name(tokenizer.special.pad),
        chat_template=None if template is None else template.jinja(),
    )


def _detokenized(name: str, tokenizer: Tokenizer, tokens: list[int]) -> Response:
    text = _decode(tokenizer, tokens)
    return JSONResponse({"model": name, "text": text, "prompt": text})


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
