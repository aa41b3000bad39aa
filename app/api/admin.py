"""POST /admin/reload: for whoever runs the service."""

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.api.documentation import problems
from app.engine.service import ServiceDependency
from app.errors import Problem


async def require_admin(request: Request, service: ServiceDependency) -> None:
    """
    Raises:
        Problem: 403, the request came without a key that is for this.
    """
    if not service.keys.required:
        raise Problem(
            403,
            "forbidden",
            "there are no API keys, so nobody is known as an admin; send the process SIGHUP to "
            "reload, or add a key with penwright-keys add FILE LABEL --admin",
        )
    if not request.scope["state"].get("admin"):
        raise Problem(
            403, "forbidden", "this API key is not for /admin; one made with --admin is needed"
        )


router = APIRouter(prefix="/admin", tags=["service"], dependencies=[Depends(require_admin)])


class ReloadResponse(BaseModel):
    """What is served from now on."""

    models: dict[str, str] = Field(description="Each model's checkpoint, by its name.")
    keys: int = Field(description="API keys that are known.")
    seconds: float = Field(description="Until the new models were loaded and verified.")


@router.post("/reload", responses=problems(403, 409, 503))
async def reload(service: ServiceDependency) -> ReloadResponse:
    """Load the API keys again, and then the models; serve these if they are good.

    What is loaded is the same directory as before, with what is in it now. Requests that run finish
    on the models that they began with. A set that cannot be used is refused with its reason, and
    the old one goes on serving; the new keys are valid, and the old ones not, all the same.
    `SIGHUP` does the same.
    """
    reloaded = await service.reload()
    return ReloadResponse(
        models={name: model.checkpoint for name, model in reloaded.loaded.models.items()},
        keys=len(service.keys),
        seconds=reloaded.seconds,
    )
