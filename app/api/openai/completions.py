"""/v1: what OpenAI's clients call, as they expect it.

The same models, engine and limits as the other routes; only the shapes differ.
"""

import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body
from starlette.responses import Response

from app.api.documentation import STREAM, WORK, problems
from app.api.generation import Generation, check_batch, collect, encode_chat, plan
from app.api.openai.answers import (
    ChatChoice,
    ChatMessage,
    ChatResponse,
    CompletionChoice,
    CompletionResponse,
    Embedding,
    EmbeddingResponse,
    EmbeddingUsage,
    Model,
    ModelList,
)
from app.api.openai.embeddings import embed, encoded
from app.api.openai.examples import CHAT_EXAMPLES, COMPLETION_EXAMPLES, EMBEDDING_EXAMPLES
from app.api.openai.generation import finish_reason, head, openai_usage
from app.api.openai.inputs import chat_model, check_ids, note_user, token_ids
from app.api.openai.logprobs import Completed, of_chat
from app.api.openai.schemas import ChatRequest, CompletionRequest, EmbeddingRequest
from app.api.openai.streaming import ChatChunks, CompletionChunks
from app.api.responses import start_stream
from app.api.whole import whole
from app.engine.constraint_compiler import constrained
from app.engine.loading import ServedModel
from app.engine.service import Service, ServiceDependency
from app.envelopes import ErrorBody

router = APIRouter(prefix="/v1", tags=["OpenAI's API"])


def _enveloped(responses: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The same errors in OpenAI's envelope."""
    return {
        status: {"model": ErrorBody, "description": response["description"]}
        for status, response in responses.items()
    }


_GUARD = problems(401, 403)
_WORK = _enveloped(_GUARD | WORK)
_READ = _enveloped(_GUARD | problems(404, 422, 500, 503))


@router.post("/completions", response_model=CompletionResponse, responses=_WORK | STREAM)
async def completions(
    body: Annotated[CompletionRequest, Body(openapi_examples=COMPLETION_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Continue a text, or several: `client.completions.create`."""
    model = service.model("generate", body.model)
    generation = await _plan(service, model, body)
    if body.stream:
        return await start_stream(generation, CompletionChunks(generation, body.include_usage))
    done = await collect(generation)
    answer = CompletionResponse(
        **head(generation, "cmpl", "text_completion"),
        choices=[],
        usage=openai_usage(generation, [each.finished for each in done]),
    )
    choices = (
        CompletionChoice(
            index=index,
            text=each.text,
            logprobs=Completed(model.base).take(each.logprobs) if generation.logprobs else None,
            finish_reason=finish_reason(each.finished),
        )
        for index, each in enumerate(done)
    )
    return await whole(answer, choices, large=generation.logprobs)


@router.post("/chat/completions", response_model=ChatResponse, responses=_WORK | STREAM)
async def chat_completions(
    body: Annotated[ChatRequest, Body(openapi_examples=CHAT_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Answer a conversation: `client.chat.completions.create`."""
    model = chat_model(service, body.model)
    generation = await _plan(service, model, body)
    if body.stream:
        return await start_stream(generation, ChatChunks(generation, body.include_usage))
    done = await collect(generation)
    answer = ChatResponse(
        **head(generation, "chatcmpl", "chat.completion"),
        choices=[],
        usage=openai_usage(generation, [each.finished for each in done]),
    )
    choices = (
        ChatChoice(
            index=index,
            message=ChatMessage(role="assistant", content=each.text),
            logprobs=of_chat(model.base, each.logprobs) if generation.logprobs else None,
            finish_reason=finish_reason(each.finished),
        )
        for index, each in enumerate(done)
    )
    return await whole(answer, choices, large=generation.logprobs)


async def _plan(
    service: Service, model: ServedModel, body: CompletionRequest | ChatRequest
) -> Generation:
    """What a body asks of the engine, after all that can be wrong with it."""
    note_user(body.user)
    options, deadline = body.options, time.monotonic() + service.settings.request_timeout
    if isinstance(body, ChatRequest):
        count, field = 1, "messages"
    else:
        count, field = len(body.prompts), "prompt"
    check_batch(count, options.choices, service.settings.max_batch, field)
    check_ids(model, body.biases, "logit_bias")
    if isinstance(body, ChatRequest):
        tokens = await encode_chat(model, body.conversation, field)
    else:
        tokens = await token_ids(model, body.prompts, field, documents=True)
    options = await constrained(
        model.dispatcher.compiler,
        options,
        body.response_format,
        prompts=len(tokens),
        deadline=deadline,
    )
    return plan(model, tokens, options, deadline=deadline)


@router.post("/embeddings", responses=_WORK)
async def embeddings(
    body: Annotated[EmbeddingRequest, Body(openapi_examples=EMBEDDING_EXAMPLES)],
    service: ServiceDependency,
) -> EmbeddingResponse:
    """Texts as vectors, the means of a model's hidden states: `client.embeddings.create`."""
    note_user(body.user)
    model = service.any_model(body.model)
    settings = service.settings
    deadline = time.monotonic() + settings.request_timeout
    tokens = await token_ids(model, body.inputs, "input", documents=True)
    vectors, count = await embed(model, tokens, at_once=settings.max_batch, deadline=deadline)
    return EmbeddingResponse(
        object="list",
        model=model.name,
        data=[
            Embedding(
                object="embedding",
                index=index,
                embedding=encoded(vector, body.encoding_format or "float"),
            )
            for index, vector in enumerate(vectors)
        ],
        usage=EmbeddingUsage(prompt_tokens=count, total_tokens=count),
    )


@router.get("/models", responses=_READ)
async def list_models(service: ServiceDependency) -> ModelList:
    """What is served: `client.models.list`."""
    loaded = service.require_loaded()
    return ModelList(object="list", data=[_model(model) for model in loaded.models.values()])


@router.get("/models/{model}", responses=_READ)
async def retrieve_model(model: str, service: ServiceDependency) -> Model:
    """One of them: `client.models.retrieve`."""
    return _model(service.any_model(model))


def _model(model: ServedModel) -> Model:
    path = model.base.path if model.adapter is None else model.adapter.path
    return Model(
        id=model.name,
        object="model",
        created=_changed(path if model.base.card == {} else path / "card.json"),
        owned_by="penwright",
        max_model_len=model.context_length,
        tasks=list(model.tasks),
    )


def _changed(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:  # another was published in its place meanwhile
        return 0
