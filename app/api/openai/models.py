"""GET /v1/models: what is served."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.documentation import OPENAI_READ
from app.api.model_files import published
from app.engine.loading import ServedModel
from app.engine.service import ServiceDependency


class Model(BaseModel):
    """A model that is served; /models tells more of it."""

    id: str = Field(description="What `model` is in a request.")
    object: Literal["model"]
    created: int = Field(description="When its checkpoint was published here.")
    owned_by: Literal["penwright"]
    max_model_len: int = Field(description="Its context: tokens of prompt and answer together.")
    tasks: list[Literal["generate", "classify", "instruct"]] = Field(
        description="`generate` answers completions, `instruct` chats; all give embeddings."
    )


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


router = APIRouter(prefix="/v1", tags=["OpenAI's API"])


@router.head("/models", include_in_schema=False)
@router.get("/models", responses=OPENAI_READ)
async def list_models(service: ServiceDependency) -> ModelList:
    """What is served: `client.models.list`."""
    loaded = service.require_loaded()
    return ModelList(object="list", data=[_model(model) for model in loaded.models.values()])


@router.head("/models/{model}", include_in_schema=False)
@router.get("/models/{model}", responses=OPENAI_READ)
async def retrieve_model(model: str, service: ServiceDependency) -> Model:
    """One of them: `client.models.retrieve`."""
    return _model(service.any_model(model))


def _model(model: ServedModel) -> Model:
    return Model(
        id=model.name,
        object="model",
        created=int(published(model)),
        owned_by="penwright",
        max_model_len=model.context_length,
        tasks=list(model.tasks),
    )
