"""GET /api/version, /api/tags and /api/ps, POST /api/show: what is served."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.documentation import OLLAMA_READ, OLLAMA_WORK, Example
from app.api.field_marks import Only
from app.api.fields import Fields, Str
from app.api.model_files import published, size, weights_format
from app.api.ollama.generation import timestamp
from app.api.ollama.names import tagged, untagged
from app.engine.loading import ServedModel
from app.engine.service import ServiceDependency
from app.ops.metrics import package_version
from model.checkpoint import checkpoint_name
from model.convert.families import family_of
from model.cpu.quantize import weights_of
from model.errors import UsageError

NEVER = "0001-01-01T00:00:00Z"
"""When a model is unloaded that stays as long as it is served."""


class OllamaVersion(BaseModel):
    version: str = Field(description="Penwright's.")


class OllamaDetails(BaseModel):
    parent_model: str = Field(description="Of an adapter: its base.")
    format: Literal["gguf", "safetensors"]
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str = Field(description="In what its weights are held, as /models has it.")


class OllamaModel(BaseModel):
    """A model that is served; /models tells more of it."""

    name: str = Field(description="What `model` is in a request, where it may lack its tag.")
    model: str
    modified_at: str = Field(description="When its checkpoint was published here.")
    size: int = Field(description="Bytes of its files, those of its base included.")
    digest: str = Field(description="The checkpoint's id.")
    details: OllamaDetails


class OllamaModels(BaseModel):
    models: list[OllamaModel]


class OllamaRunning(BaseModel):
    """A model that is loaded, as all are."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str = Field(description=f"{NEVER}: it stays.")
    size_vram: int = Field(description="The same as `size` on a GPU, else 0.")
    context_length: int


class OllamaProcesses(BaseModel):
    models: list[OllamaRunning]


class OllamaShowRequest(Fields):
    """What is there to know of a model."""

    model: Str | None = Field(
        None, description="Name of a model, as /api/tags lists them, or without its tag."
    )
    name: Str | None = Field(None, description="An older name of `model`.")
    verbose: Annotated[Any, Only(None, False)] = None
    system: Annotated[Any, Only(None, "")] = None
    template: Annotated[Any, Only(None, "")] = None
    options: Annotated[Any, Only(None, {})] = None

    @model_validator(mode="after")
    def _one_name(self) -> "OllamaShowRequest":
        if (self.model is None) == (self.name is None):
            raise ValueError("needs `model`, or its older name `name`, and not both")
        return self


OLLAMA_SHOW_EXAMPLES: dict[str, Example] = {
    "model": {"summary": "A model", "value": {"model": "instruct"}}
}


class OllamaShown(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    license: str
    parameters: str = Field(description="None are set here.")
    template: str = Field(description="How conversations are written for it, in Jinja.")
    modified_at: str
    details: OllamaDetails
    model_info: dict[str, Any] = Field(description="Named as GGUF names it.")
    capabilities: list[Literal["completion", "embedding"]]


router = APIRouter(prefix="/api", tags=["Ollama's API"])


@router.head("/version", include_in_schema=False)
@router.get("/version", responses=OLLAMA_READ)
async def ollama_version() -> OllamaVersion:
    """The version of what serves: that of Penwright."""
    return OllamaVersion(version=package_version("penwright"))


@router.head("/tags", include_in_schema=False)
@router.get("/tags", responses=OLLAMA_READ)
async def ollama_tags(service: ServiceDependency) -> OllamaModels:
    """What is served: `client.list`."""
    loaded = service.require_loaded()
    return OllamaModels(
        models=[
            OllamaModel(
                name=tagged(model.name),
                model=tagged(model.name),
                modified_at=_modified(model),
                size=size(model),
                digest=model.checkpoint,
                details=_details(model),
            )
            for model in loaded.models.values()
        ]
    )


@router.head("/ps", include_in_schema=False)
@router.get("/ps", responses=OLLAMA_READ)
async def ollama_ps(service: ServiceDependency) -> OllamaProcesses:
    """What is loaded, which is all that is served: `client.ps`."""
    loaded = service.require_loaded()
    return OllamaProcesses(
        models=[
            OllamaRunning(
                name=tagged(model.name),
                model=tagged(model.name),
                size=size(model),
                digest=model.checkpoint,
                details=_details(model),
                expires_at=NEVER,
                size_vram=0 if model.base.model.device.type == "cpu" else size(model),
                context_length=model.context_length,
            )
            for model in loaded.models.values()
        ]
    )


@router.post("/show", responses=OLLAMA_WORK)
async def ollama_show(
    body: Annotated[OllamaShowRequest, Body(openapi_examples=OLLAMA_SHOW_EXAMPLES)],
    service: ServiceDependency,
) -> OllamaShown:
    """One of the models: `client.show`."""
    model = service.any_model(untagged(service, body.model or body.name or ""))
    details, config = _details(model), model.base.config
    family = details.family
    info = {
        "general.architecture": family,
        "general.parameter_count": model.base.model.parameter_count(),
        f"{family}.context_length": model.context_length,
        f"{family}.embedding_length": config.n_embd,
        f"{family}.block_count": config.n_layer,
        f"{family}.attention.head_count": config.n_head,
        f"{family}.attention.head_count_kv": config.n_kv_head,
        f"{family}.vocab_size": model.base.tokenizer.vocab_size,
    }
    completes = any(task in ("generate", "instruct") for task in model.tasks)
    return OllamaShown(
        license=_licence(model),
        parameters="",
        template="" if model.template is None else model.template.jinja(),
        modified_at=_modified(model),
        details=details,
        model_info=info,
        capabilities=["completion", "embedding"] if completes else ["embedding"],
    )


def _details(model: ServedModel) -> OllamaDetails:
    base = model.base
    try:
        family = family_of(base.config, "")
    except UsageError:  # it has choices that no published family has
        family = "penwright"
    return OllamaDetails(
        parent_model="" if model.adapter is None else checkpoint_name(base.path),
        format=weights_format(base),
        family=family,
        families=[family],
        parameter_size=_rounded(base.model.parameter_count()),
        quantization_level=weights_of(base.model),
    )


def _rounded(parameters: int) -> str:
    """`134.5M`, and the like."""
    for unit, count in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= count:
            return f"{parameters / count:.1f}{unit}"
    return str(parameters)


def _modified(model: ServedModel) -> str:
    return timestamp(datetime.fromtimestamp(published(model), UTC))


def _licence(model: ServedModel) -> str:
    """As the cards have it. A card is written by hand at times: it may say nothing."""
    cards = [model.base.card, *([] if model.adapter is None else [model.adapter.card])]
    found = [each for card in cards for each in _listed(card.get("licences"))]
    return "\n".join(dict.fromkeys(found))


def _listed(licences: Any) -> list[str]:
    return (
        [each for each in licences if isinstance(each, str)] if isinstance(licences, list) else []
    )
