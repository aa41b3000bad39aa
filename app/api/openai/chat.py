"""POST /v1/chat/completions: `client.chat.completions.create`."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field, ValidationInfo, field_validator
from starlette.responses import Response

from app.api.documentation import OPENAI_WORK, STREAM, Example
from app.api.field_marks import Only
from app.api.fields import NewTokens
from app.api.generation import UNBOUNDED, GenerationOptions, chat_model, run_generation
from app.api.openai.generation import (
    FinishReason,
    OpenAIAnswer,
    SamplingFields,
    Usage,
    finish_reason,
)
from app.api.openai.parameters import Messages
from app.api.prompts import ChatPrompt
from app.api.responses import Completion, Generation, json_response
from app.engine.service import ServiceDependency
from app.ops.context import note_user
from model.checkpoint import Base
from model.engine.request import Text, TokenLogprob
from model.prompts import Message


class ChatRequest(SamplingFields):
    """Answer the last message of a conversation."""

    messages: Messages = Field(
        description="The last one must be the user's. They are put before the model in its own "
        "template. One without turns (Alpaca's) makes the last message the instruction, after the "
        "system messages and with a blank line between, and earlier turns the input, as lines that "
        "begin with `User: ` or `Assistant: `. Nothing is left out: what is longer than the "
        "context is an error."
    )
    max_tokens: NewTokens | None = Field(
        None, description="An older name of `max_completion_tokens`."
    )
    max_completion_tokens: NewTokens | None = Field(
        None,
        description="Most tokens to generate. If given, the prompt and as many tokens must fit "
        "the model's context; if not, it is what the context has room for.",
    )
    logprobs: bool | None = Field(
        False,
        description="Report the log-probability of each token: the model's own, before "
        "temperature.",
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="With `logprobs`: of this many of the most probable, too."
    )
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None, "none")] = None
    functions: Annotated[Any, Only(None, [])] = None
    metadata: Annotated[Any, Only(None, {})] = None
    modalities: Annotated[Any, Only(None, ["text"])] = None
    moderation: Annotated[Any, Only(None)] = None
    parallel_tool_calls: Annotated[Any, Only(None, False)] = None
    prediction: Annotated[Any, Only(None)] = None
    prompt_cache_key: Annotated[Any, Only(None)] = None
    prompt_cache_options: Annotated[Any, Only(None, {})] = None
    prompt_cache_retention: Annotated[Any, Only(None)] = None
    reasoning_effort: Annotated[Any, Only(None, "none")] = None
    safety_identifier: Annotated[Any, Only(None)] = None
    service_tier: Annotated[Any, Only(None, "auto", "default")] = None
    store: Annotated[Any, Only(None, False)] = None
    tool_choice: Annotated[Any, Only(None, "none")] = None
    tools: Annotated[Any, Only(None, [])] = None
    verbosity: Annotated[Any, Only(None)] = None
    web_search_options: Annotated[Any, Only(None)] = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("max_tokens") is not None:
            raise ValueError("is given beside `max_tokens`, which means the same: send one of them")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and info.data.get("logprobs") is not True:
            raise ValueError("is for `logprobs: true` only")
        return value

    @property
    def conversation(self) -> list[Message]:
        return [Message(message.chat_role, message.text) for message in self.messages]

    @property
    def options(self) -> GenerationOptions:
        limit = "max_completion_tokens" if self.max_tokens is None else "max_tokens"
        wanted = self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self._options(limit, wanted, UNBOUNDED, logprobs)


CHAT_EXAMPLES: dict[str, Example] = {
    "message": {
        "summary": "One message",
        "value": {
            "model": "instruct",
            "messages": [{"role": "user", "content": "What is the opposite of 'hot'?"}],
            "temperature": 0,
        },
    },
    "conversation": {
        "summary": "A conversation",
        "value": {
            "model": "instruct",
            "messages": [
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "What is the opposite of 'hot'?"},
                {"role": "assistant", "content": "The opposite of 'hot' is 'cold'."},
                {"role": "user", "content": "What is the plural of 'child'?"},
            ],
            "temperature": 0,
        },
    },
}


class TopLogprob(BaseModel):
    """A token that could have come at this place."""

    token: str
    bytes: list[int] = Field(description="Those of `token`, which can be a part of a character.")
    logprob: float


class ChatTokenLogprob(TopLogprob):
    """A generated token."""

    top_logprobs: list[TopLogprob]
    forced: bool = Field(
        description="Whether it was not drawn, because `response_format` left no choice."
    )


class ChatLogprobs(BaseModel):
    """Of all generated tokens, in order, also those of a stop string and the end token, which the
    message does not have."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Of the checkpoint that answers.")
    choices: list[ChatChoice]
    usage: Usage


router = APIRouter(prefix="/v1", tags=["OpenAI's API"])


@router.post("/chat/completions", response_model=ChatResponse, responses=OPENAI_WORK | STREAM)
async def chat_completions(
    body: Annotated[ChatRequest, Body(openapi_examples=CHAT_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Answer a conversation: `client.chat.completions.create`."""
    model = chat_model(service, body.model)
    note_user(body.user)
    prompt = ChatPrompt(body.conversation, "messages")
    make_answer = partial(ChatAnswer, include_usage=body.include_usage)
    return await run_generation(service, model, prompt, body.options, make_answer)


def logprobs_json(base: Base, values: Sequence[TokenLogprob]) -> dict[str, Any]:
    """A `ChatLogprobs` as JSON has it: streams make it on the event loop, piece by piece."""
    content = base.tokenizer.token_bytes
    return {
        "content": [
            {
                "token": value.text,
                "bytes": list(content(value.token)),
                "logprob": value.logprob,
                "top_logprobs": [
                    {"token": text, "bytes": list(content(token)), "logprob": logprob}
                    for token, text, logprob in value.top
                ],
                "forced": value.forced,
            }
            for value in values
        ],
        "refusal": None,
    }


class ChatAnswer(OpenAIAnswer):
    """The first event of each choice has the role."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, generation: Generation, include_usage: bool) -> None:
        super().__init__(generation, include_usage)
        self._begun: set[int] = set()

    async def whole(self, completions: Sequence[Completion]) -> Response:
        answer = ChatResponse(
            **self.head(self.kind),
            choices=[],
            usage=self.usage([completion.finished for completion in completions]),
        )
        base, logprobs = self.generation.model.base, self.generation.logprobs
        choices = (
            ChatChoice(
                index=index,
                message=ChatMessage(role="assistant", content=each.text),
                logprobs=ChatLogprobs.model_validate(logprobs_json(base, each.logprobs))
                if logprobs
                else None,
                finish_reason=finish_reason(each.finished),
            )
            for index, each in enumerate(completions)
        )
        return await json_response(answer, choices, large=logprobs)

    def _chunk(self, index: int, piece: dict[str, Any], reason: str | None) -> bytes:
        chunk = super()._chunk(index, piece, reason)
        if index in self._begun:
            return chunk
        self._begun.add(index)
        delta = {"role": "assistant", "content": ""}
        return super()._chunk(index, {"delta": delta, "logprobs": None}, None) + chunk

    def piece(self, index: int, event: Text | None) -> dict[str, Any]:
        if event is None:
            return {"delta": {}, "logprobs": None}
        logprobs = None
        if self.generation.logprobs:
            logprobs = logprobs_json(self.generation.model.base, event.logprobs)
        return {"delta": {"content": event.text}, "logprobs": logprobs}
