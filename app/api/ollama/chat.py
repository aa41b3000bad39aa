"""POST /api/chat: `client.chat`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import AfterValidator, BaseModel, Field, model_validator
from starlette.responses import Response

from app.api.documentation import LINES, OLLAMA_WORK, Example
from app.api.field_marks import Only, note_ignored, unsupported
from app.api.fields import MOST_MESSAGES, Fields, Str
from app.api.generation import chat_model, run_generation
from app.api.ollama.generation import GenerationFields, OllamaAnswer, OllamaResponse, loaded
from app.api.ollama.names import untagged
from app.api.prompts import ChatPrompt
from app.engine.service import ServiceDependency
from model.prompts import Message


class OllamaMessage(Fields):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Str = ""
    images: Annotated[Any, Only(None, [])] = None
    thinking: Annotated[Any, Only(None, "")] = None
    tool_calls: Annotated[Any, Only(None, [])] = None
    tool_name: Annotated[Any, Only(None, "")] = None

    @model_validator(mode="before")
    @classmethod
    def _is_said(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("role") == "tool":
            raise unsupported("is of the role 'tool', which is not supported: there are no tools")
        return value


def _answerable(messages: list[OllamaMessage]) -> list[OllamaMessage]:
    if not messages:
        return messages
    last = messages[-1]
    if last.role == "system":
        raise ValueError("end with a message of the role 'system'; there is nothing to answer")
    if last.role == "user" and not last.content:
        raise ValueError("end with a message without text; there is nothing to answer")
    if all(message.role != "user" for message in messages):
        raise ValueError("have none of the role 'user', which could be answered")
    return messages


class OllamaChatRequest(GenerationFields):
    """Answer the last message of a conversation."""

    messages: (
        Annotated[
            list[OllamaMessage],
            Field(max_length=MOST_MESSAGES, fail_fast=True),
            AfterValidator(_answerable),
        ]
        | None
    ) = Field(
        None,
        description="They are put before the model in its own template; nothing is left out: what "
        "is longer than the context is an error. If the last one is the assistant's, the answer "
        "goes on from it. Without any, the answer says that the model is loaded.",
    )
    tools: Annotated[Any, Only(None, [])] = None

    @property
    def prompt(self) -> ChatPrompt:
        turns = [Message(message.role, message.content) for message in self.messages or ()]
        beginning = turns.pop().text if turns and turns[-1].role == "assistant" else ""
        return ChatPrompt(turns, "messages", beginning, self.no_thoughts_field)


OLLAMA_CHAT_EXAMPLES: dict[str, Example] = {
    "message": {
        "summary": "One message",
        "value": {
            "model": "instruct",
            "messages": [{"role": "user", "content": "What is the opposite of 'hot'?"}],
            "options": {"temperature": 0, "num_predict": 64},
            "stream": False,
        },
    },
    "stream": {
        "summary": "Stream",
        "value": {
            "model": "instruct:latest",
            "messages": [
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "Name a synonym of 'happy'."},
            ],
            "options": {"seed": 1, "num_predict": 64},
        },
    },
}


class OllamaSaid(BaseModel):
    role: Literal["assistant"]
    content: str


class OllamaChatResponse(OllamaResponse):
    message: OllamaSaid


router = APIRouter(prefix="/api", tags=["Ollama's API"])


@router.post("/chat", response_model=OllamaChatResponse, responses=OLLAMA_WORK | LINES)
async def ollama_chat(
    body: Annotated[OllamaChatRequest, Body(openapi_examples=OLLAMA_CHAT_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Answer a conversation: `client.chat`."""
    model = chat_model(service, untagged(service, body.model))
    note_ignored(body)
    if body.options is not None:
        body.options.check_context(model)
    if not body.messages:
        return loaded(model, _said(""))
    return await run_generation(service, model, body.prompt, body.generation_options, ChatAnswer)


def _said(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


class ChatAnswer(OllamaAnswer):
    def said(self, text: str) -> dict[str, Any]:
        return _said(text)
