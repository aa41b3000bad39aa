"""POST /v1/chat/completions: `client.chat.completions.create`."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Field, ValidationInfo, field_validator
from starlette.responses import Response

from app.api.documentation import OPENAI_WORK, STREAM, Example
from app.api.field_marks import Only
from app.api.fields import NewTokens
from app.api.generation import UNBOUNDED, GenerationOptions, chat_model, run_generation
from app.api.openai.chat_answers import ChatAnswer, ChatResponse
from app.api.openai.generation import SamplingFields
from app.api.openai.parameters import Messages
from app.api.openai.tools import (
    Calling,
    NamedTool,
    Tool,
    ToolChoice,
    Tools,
    check_choice,
    conversation,
)
from app.api.prompts import ChatPrompt
from app.engine.loading import ServedModel
from app.engine.service import ServiceDependency
from app.errors import invalid
from app.ops.context import note_user
from model.prompts.tools import CallForm


class ChatRequest(SamplingFields):
    """Answer the last message of a conversation."""

    messages: Messages = Field(
        description="The last one must be the user's or a tool's. They are put before the model in "
        "its own template. One without turns (Alpaca's) makes the last message the instruction, "
        "after the system messages and with a blank line between, and earlier turns the input, as "
        "lines that begin with `User: ` or `Assistant: `. Nothing is left out: what is longer than "
        "the context is an error."
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
    tools: Tools | None = Field(
        None,
        description="Functions that the answer may call, at most 128. The model is told of them in "
        "its template's own words where it has some, else in a system message. A call is always of "
        "one of them, with arguments of its `parameters`; what cannot be enforced of those is "
        "refused.",
    )
    tool_choice: ToolChoice | None = Field(
        None,
        description="`auto`, the default, leaves it to the model whether it calls one or writes "
        "text; `required` or a function asks for a call; with `none` it is not told of the tools.",
    )
    parallel_tool_calls: bool | None = Field(
        None,
        description="Without effect: an answer has one call at most, which is as good an answer "
        "where several are allowed.",
    )
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None, "none")] = None
    functions: Annotated[Any, Only(None, [])] = None
    metadata: Annotated[Any, Only(None, {})] = None
    modalities: Annotated[Any, Only(None, ["text"])] = None
    moderation: Annotated[Any, Only(None)] = None
    prediction: Annotated[Any, Only(None)] = None
    prompt_cache_key: Annotated[Any, Only(None)] = None
    prompt_cache_options: Annotated[Any, Only(None, {})] = None
    prompt_cache_retention: Annotated[Any, Only(None)] = None
    reasoning_effort: Annotated[Any, Only(None, "none")] = None
    safety_identifier: Annotated[Any, Only(None)] = None
    service_tier: Annotated[Any, Only(None, "auto", "default")] = None
    store: Annotated[Any, Only(None, False)] = None
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

    @field_validator("tool_choice")
    @classmethod
    def _of_tools(
        cls, value: str | NamedTool | None, info: ValidationInfo
    ) -> str | NamedTool | None:
        check_choice(value, info)
        return value

    @property
    def callable_tools(self) -> list[Tool]:
        """What the answer may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    def calling(self, form: CallForm) -> Calling:
        """How it calls them; there are some.

        Raises:
            Problem: 422, a `response_format` is asked for, too.
        """
        if self.response_format is not None and self.response_format.type != "text":
            raise invalid("response_format", "is not supported beside `tools` that may be called")
        chosen = self.tool_choice
        name = chosen.function.name if isinstance(chosen, NamedTool) else None
        tools = list(enumerate(self.callable_tools))
        allowed = [each for each in tools if name in (None, each[1].function.name)]
        return Calling(allowed, form, only=chosen not in (None, "auto"))

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
    "tools": {
        "summary": "A tool that is called",
        "value": {
            "model": "instruct",
            "messages": [{"role": "user", "content": "How warm is it in Oslo?"}],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "temperature",
                        "description": "How warm it is in a city now",
                        "parameters": {
                            "type": "object",
                            "properties": {"city": {"type": "string", "maxLength": 30}},
                            "required": ["city"],
                        },
                    },
                }
            ],
            "tool_choice": "required",
            "temperature": 0,
        },
    },
}


router = APIRouter(prefix="/v1", tags=["OpenAI's API"])


@router.post("/chat/completions", response_model=ChatResponse, responses=OPENAI_WORK | STREAM)
async def chat_completions(
    body: Annotated[ChatRequest, Body(openapi_examples=CHAT_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Answer a conversation: `client.chat.completions.create`."""
    model = chat_model(service, body.model)
    note_user(body.user)
    tools = body.callable_tools
    messages = conversation(body.messages)
    prompt = ChatPrompt(messages, "messages", tools=[tool.definition for tool in tools])
    calling, options = None, body.options
    if tools:
        calling = body.calling(await _call_form(model))
        options = replace(options, form=calling.answers)
    make_answer = partial(ChatAnswer, include_usage=body.include_usage, calling=calling)
    return await run_generation(service, model, prompt, options, make_answer)


async def _call_form(model: ServedModel) -> CallForm:
    template = model.template
    assert template is not None, "a model without one answers no chats"
    if template.waits:
        return await asyncio.to_thread(lambda: template.call_form)
    return template.call_form
