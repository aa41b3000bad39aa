"""POST /api/generate: `client.generate`."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Field
from starlette.responses import Response

from app.api.documentation import LINES, OLLAMA_WORK, Example
from app.api.field_marks import Only, note_ignored
from app.api.fields import Str
from app.api.generation import run_generation
from app.api.ollama.generation import GenerationFields, OllamaAnswer, OllamaResponse, loaded
from app.api.ollama.names import untagged
from app.api.prompts import ChatPrompt, TextPrompts
from app.engine.loading import ServedModel
from app.engine.service import ServiceDependency
from app.errors import invalid
from model.prompts import Message


class OllamaGenerateRequest(GenerationFields):
    """Answer or continue a text."""

    prompt: Str | None = Field(
        "",
        description="A model that follows instructions answers it, in its own template; any other "
        "continues it. Without text, the answer says that the model is loaded.",
    )
    system: Str | None = Field("", description="The system prompt, for a model with a template.")
    raw: bool | None = Field(False, description="Continue the prompt, without any template.")
    template: Annotated[Any, Only(None, "")] = None
    suffix: Annotated[Any, Only(None, "")] = None
    images: Annotated[Any, Only(None, [])] = None
    context: Annotated[Any, Only(None, [])] = None

    def prompt_of(self, model: ServedModel) -> ChatPrompt | TextPrompts:
        """What `model` is given to read.

        Raises:
            Problem: 422, a system prompt has no place there.
        """
        text, system = self.prompt or "", self.system or ""
        if self.answered_by(model):
            turns = [Message("system", system)] if system else []
            turns.append(Message("user", text))
            return ChatPrompt(turns, "prompt", no_thoughts_field=self.no_thoughts_field)
        if system:
            why = "`raw` is true" if self.raw else f"{model.name} does not follow instructions"
            raise invalid("system", f"has no place in a text that is continued, as {why}")
        return TextPrompts([text], "prompt")

    def answered_by(self, model: ServedModel) -> bool:
        """Whether `model` answers the prompt, or continues it."""
        return "instruct" in model.tasks and not self.raw


OLLAMA_GENERATE_EXAMPLES: dict[str, Example] = {
    "continue": {
        "summary": "Continue a text",
        "value": {
            "model": "base",
            "prompt": "Once upon a time",
            "options": {"num_predict": 40, "seed": 1},
            "stream": False,
        },
    },
    "answer": {
        "summary": "Answer, as JSON of a schema",
        "value": {
            "model": "instruct",
            "prompt": "Is the sea warm or cold?",
            "options": {"num_predict": 40, "temperature": 0},
            "format": {
                "type": "object",
                "properties": {"sea": {"enum": ["warm", "cold"]}},
                "required": ["sea"],
                "additionalProperties": False,
            },
            "stream": False,
        },
    },
    "stream": {
        "summary": "Stream",
        "value": {
            "model": "base:latest",
            "prompt": "In the morning",
            "options": {"num_predict": 40},
        },
    },
}


class OllamaGenerateResponse(OllamaResponse):
    response: str


router = APIRouter(prefix="/api", tags=["Ollama's API"])


@router.post("/generate", response_model=OllamaGenerateResponse, responses=OLLAMA_WORK | LINES)
async def ollama_generate(
    body: Annotated[OllamaGenerateRequest, Body(openapi_examples=OLLAMA_GENERATE_EXAMPLES)],
    service: ServiceDependency,
) -> Response:
    """Answer or continue a text: `client.generate`."""
    name = untagged(service, body.model)
    known = service.require_loaded().models.get(name)
    answers = known is not None and body.answered_by(known)
    model = service.model("instruct" if answers else "generate", name)
    note_ignored(body)
    if body.options is not None:
        body.options.check_context(model)
    if not body.prompt:
        return loaded(model, {"response": ""})
    prompt = body.prompt_of(model)
    return await run_generation(service, model, prompt, body.generation_options, GenerateAnswer)


class GenerateAnswer(OllamaAnswer):
    def said(self, text: str) -> dict[str, Any]:
        return {"response": text}
