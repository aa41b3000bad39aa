"""POST /v1/messages/count_tokens: `client.messages.count_tokens`."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from app.api.anthropic.conversation import ConversationFields
from app.api.documentation import ANTHROPIC_WORK, Example
from app.api.field_marks import note_ignored
from app.api.generation import chat_model
from app.engine.service import ServiceDependency


class CountTokensRequest(ConversationFields):
    """How many tokens a conversation has."""


COUNT_EXAMPLES: dict[str, Example] = {
    "message": {
        "summary": "One message",
        "value": {
            "model": "instruct",
            "messages": [{"role": "user", "content": "What is the opposite of 'hot'?"}],
        },
    }
}


class TokenCount(BaseModel):
    input_tokens: int = Field(description="With those that the model's template adds.")


router = APIRouter(prefix="/v1", tags=["Anthropic's API"])


@router.post("/messages/count_tokens", responses=ANTHROPIC_WORK)
async def count_tokens(
    body: Annotated[CountTokensRequest, Body(openapi_examples=COUNT_EXAMPLES)],
    service: ServiceDependency,
) -> TokenCount:
    """The number of tokens of a conversation: `client.messages.count_tokens`."""
    model = chat_model(service, body.model)
    note_ignored(body)
    [tokens] = await body.prompt.encode(model)
    return TokenCount(input_tokens=len(tokens))
