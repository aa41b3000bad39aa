"""POST /v1/messages: `client.messages.create` and `client.messages.stream`.

A stream has these events, of which the fourth comes any number of times:

    event: message_start        {"type": "message_start", "message": {"id": "msg_…", …}}
    event: content_block_start  {"type": "content_block_start", "index": 0, "content_block": {…}}
    event: ping                 {"type": "ping"}
    event: content_block_delta  {…, "index": 0, "delta": {"type": "text_delta", "text": "Once"}}
    event: content_block_stop   {"type": "content_block_stop", "index": 0}
    event: message_delta        {…, "delta": {"stop_reason": "end_turn", …}, "usage": {…}}
    event: message_stop         {"type": "message_stop"}

More pings come while there is nothing to tell. An error after the first byte is `event: error`,
with Anthropic's envelope as its data, and the end.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from app.api.anthropic.conversation import ConversationFields
from app.api.documentation import ANTHROPIC_WORK, STREAM, Example
from app.api.field_marks import IGNORED, Only, note_ignored
from app.api.fields import MOST_TOKENS, Fields, NewTokens, StopString, User
from app.api.generation import GenerationOptions, chat_model, run_generation
from app.api.responses import Answer, Completion, encode_event, usage
from app.engine.service import ServiceDependency
from app.ops.context import note_user
from model.engine.request import Finished, Generate, Text
from model.sampling import SamplingSettings

StopReason = Literal["end_turn", "max_tokens", "stop_sequence"]
MOST_STOPS = 64


class MessageMetadata(Fields):
    """What is known of the request."""

    user_id: User | None = Field(None, description="Who asks; it is written to the access log.")


class MessagesRequest(ConversationFields):
    """Answer the last message of a conversation."""

    max_tokens: NewTokens = Field(
        description="Most tokens to generate. The prompt and as many tokens must fit the model's "
        "context."
    )
    metadata: MessageMetadata | None = None
    stop_sequences: (
        Annotated[list[StopString], Field(max_length=MOST_STOPS, fail_fast=True)] | None
    ) = Field(None, description="The first that appears ends the text and is no part of it.")
    temperature: float | None = Field(
        1.0,
        ge=0,
        le=100,
        description="0 always takes the most probable token; higher is more varied.",
    )
    top_k: int | None = Field(
        None,
        ge=0,
        le=MOST_TOKENS,
        description="Draw from the k most probable tokens only; 0 is all.",
    )
    top_p: float | None = Field(
        1.0,
        gt=0,
        le=1,
        description="Draw from the smallest set of most probable tokens that has this "
        "probability together.",
    )
    stream: bool | None = Field(
        False, description="Send the text piece by piece, as `text/event-stream`."
    )
    service_tier: Annotated[Literal["auto", "standard_only"] | None, IGNORED] = None
    container: Annotated[Any, Only(None)] = None
    context_management: Annotated[Any, Only(None)] = None
    diagnostics: Annotated[Any, Only(None)] = None
    inference_geo: Annotated[Any, Only(None)] = None
    mcp_servers: Annotated[Any, Only(None, [])] = None

    @property
    def options(self) -> GenerationOptions:
        sampling = SamplingSettings(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or None,
            top_p=self.top_p or 1.0,
        )
        want = Generate(
            max_new_tokens=self.max_tokens,
            sampling=sampling,
            stop=tuple(self.stop_sequences or ()),
            stream=bool(self.stream),
        )
        return GenerationOptions(
            want,
            must_fit=True,
            limit="max_tokens",
            response_format=self.response_format,
            format_field="output_config.format",
        )


MESSAGE_EXAMPLES: dict[str, Example] = {
    "message": {
        "summary": "One message",
        "value": {
            "model": "instruct",
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "What is the opposite of 'hot'?"}],
            "temperature": 0,
        },
    },
    "conversation": {
        "summary": "A conversation, and how its answer begins",
        "value": {
            "model": "instruct",
            "max_tokens": 64,
            "system": "Answer in one sentence.",
            "messages": [
                {"role": "user", "content": "What is the opposite of 'hot'?"},
                {"role": "assistant", "content": "The opposite of 'hot' is 'cold'."},
                {"role": "user", "content": [{"type": "text", "text": "And of 'old'?"}]},
                {"role": "assistant", "content": "The opposite of"},
            ],
            "temperature": 0,
        },
    },
    "stream": {
        "summary": "Stream",
        "value": {
            "model": "instruct",
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "Name a synonym of 'happy'."}],
            "stream": True,
        },
    },
}


class AnswerBlock(BaseModel):
    """What the model says."""

    type: Literal["text"]
    text: str
    citations: None = None


class MessageUsage(BaseModel):
    """Numbers of tokens. The prompt has the sum of the first three."""

    input_tokens: int = Field(description="Of the prompt, as far as they had to be computed.")
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: int = Field(description="Those that did not have to be computed.")
    output_tokens: int


class MessageResponse(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock] = Field(description="One.")
    stop_reason: StopReason
    stop_sequence: str | None = Field(description="The one that ended the text.")
    usage: MessageUsage


router = APIRouter(prefix="/v1", tags=["Anthropic's API"])


@router.post("/messages", response_model=MessageResponse, responses=ANTHROPIC_WORK | STREAM)
async def messages(
    body: Annotated[MessagesRequest, Body(openapi_examples=MESSAGE_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Answer a conversation: `client.messages.create` and `client.messages.stream`."""
    model = chat_model(service, body.model)
    note_ignored(body)
    note_user(None if body.metadata is None else body.metadata.user_id)
    return await run_generation(service, model, body.prompt, body.options, MessageAnswer)


def stop_reason(end: Finished) -> StopReason:
    if end.reason == "length":
        return "max_tokens"
    # A text of a given form stops as well, where nothing can follow.
    return "end_turn" if end.stop_string is None else "stop_sequence"


class MessageAnswer(Answer):
    error_name = "error"

    async def whole(self, completions: Sequence[Completion]) -> Response:
        [completion] = completions
        end = completion.finished
        block = AnswerBlock(type="text", text=completion.text)
        answer = self._message([block.model_dump()], end)
        body = MessageResponse.model_validate(answer).model_dump_json()
        return Response(body, media_type=JSONResponse.media_type)

    def _message(self, content: list[dict[str, Any]], end: Finished | None) -> dict[str, Any]:
        """A message as JSON has it; without an end it has only begun."""
        return {
            "id": f"msg_{self.generation.id}",
            "type": "message",
            "role": "assistant",
            "model": self.generation.model.name,
            "content": content,
            "stop_reason": None if end is None else stop_reason(end),
            "stop_sequence": None if end is None else end.stop_string,
            "usage": self._usage(end),
        }

    def _usage(self, end: Finished | None) -> dict[str, int]:
        """At the beginning, what the cache holds of the prompt is not known yet."""
        counts = usage(self.generation, [] if end is None else [end])
        return {
            "input_tokens": counts.prompt_tokens - counts.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": counts.cached_tokens,
            "output_tokens": counts.completion_tokens,
        }

    def begin(self) -> bytes:
        block = {"type": "text", "text": ""}
        return (
            _event("message_start", message=self._message([], None))
            + _event("content_block_start", index=0, content_block=block)
            + self.sign_of_life()
        )

    def sign_of_life(self) -> bytes:
        return _event("ping")

    def text(self, index: int, event: Text) -> bytes:
        delta = {"type": "text_delta", "text": event.text}
        return _event("content_block_delta", index=0, delta=delta)

    def end(self, index: int, event: Finished, ends: Sequence[Finished] | None) -> bytes:
        delta = {"stop_reason": stop_reason(event), "stop_sequence": event.stop_string}
        return (
            _event("content_block_stop", index=0)
            + _event("message_delta", delta=delta, usage=self._usage(event))
            + _event("message_stop")
        )

    def done(self) -> bytes:
        return b""


def _event(kind: str, **members: Any) -> bytes:
    return encode_event({"type": kind, **members}, kind)
