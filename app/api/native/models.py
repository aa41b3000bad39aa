"""GET /models: what is served, and how good it is."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.documentation import problems
from app.engine.loading import ServedModel
from app.engine.service import ServiceDependency
from model.cpu.quantize import weights_of


class ModelCard(BaseModel):
    """One of the models that are served."""

    name: str = Field(description="What `model` is in a request.")
    tasks: list[Literal["generate", "classify", "instruct"]]
    checkpoint: str = Field(
        description="The checkpoint's id: SHA-256 of its card; without a card, of its weights."
    )
    sha256: str = Field(
        description="SHA-256 of its file of weights; of several files, over their sorted hashes."
    )
    verified: bool = Field(
        description="Whether it was shown to answer as its card says. Another program's file has "
        "no card."
    )
    template: str | None = Field(
        description="How instructions and conversations are written for it; null if it has none "
        "that can be used."
    )
    base: str | None = Field(description="Of an adapter: the id of the base that it belongs to.")
    parameters: int = Field(description="Of the whole network, the adapter included.")
    adapter_parameters: int | None = Field(description="Of an adapter: how many are its own.")
    weights: str = Field(
        description="In what its base is held: int8 is 8 bits; int4 means that its file has "
        "weights of 4 bits, which are kept as they are, or that they were given 4 bits here; "
        "float32 and bfloat16 are not quantized."
    )
    weight_error: float = Field(
        description="How far the matrix that was rounded most when it was loaded is from what its "
        "file says, as a share: the root of the mean square. 0: all are as they are stored."
    )
    context_length: int
    vocab_size: int
    labels: list[str] | None
    positive: str | None = Field(description="The label that must reach the threshold.")
    threshold: float | None
    metrics: dict[str, Any] = Field(description="As its card has them.")


class ModelsResponse(BaseModel):
    models: list[ModelCard]


router = APIRouter()


@router.head("/models", include_in_schema=False)
@router.get("/models", responses=problems(503), tags=["service"])
async def models(service: ServiceDependency) -> ModelsResponse:
    """Each model with its checkpoint, size and measured quality."""
    loaded = service.require_loaded()
    return ModelsResponse(models=[_card(model) for model in loaded.models.values()])


def _card(model: ServedModel) -> ModelCard:
    base, adapter = model.base, model.adapter
    checkpoint = base if adapter is None else adapter
    labels = model.head.labels if model.head is not None else None
    head = sum(p.numel() for p in model.head.parameters()) if model.head is not None else 0
    own = None
    if adapter is not None:
        own = head + sum(p.numel() for p in adapter.lora.parameters())
    if adapter is not None:
        weights = str(adapter.card["files"]["adapter.safetensors"])
    else:
        weights = base.weight_hashes[0] if len(base.weight_hashes) == 1 else base.weights
    return ModelCard(
        name=model.name,
        tasks=list(model.tasks),
        checkpoint=checkpoint.id,
        sha256=weights,
        verified=model.verified,
        template=None if model.template is None else model.template.name,
        base=None if adapter is None else base.id,
        parameters=base.model.parameter_count() + (head if own is None else own),
        adapter_parameters=own,
        weights=weights_of(base.model),
        weight_error=round(base.model.weight_error, 6),
        context_length=model.context_length,
        vocab_size=base.tokenizer.vocab_size,
        labels=list(labels.names) if labels else None,
        positive=labels.positive if labels else None,
        threshold=labels.threshold if labels and labels.positive else None,
        metrics=_metrics(checkpoint.card),
    )


def _metrics(card: dict[str, Any]) -> dict[str, Any]:
    """What a card says of quality. A card is written by hand at times: it may say nothing."""
    metrics = card.get("metrics")
    return metrics if isinstance(metrics, dict) else {}
