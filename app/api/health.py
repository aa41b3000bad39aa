"""GET /healthz, /readyz and /metrics: for what watches over the service."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.documentation import problems
from app.engine.service import ServiceDependency
from app.ops.metrics import CONTENT_TYPE

router = APIRouter(tags=["service"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is alive; nothing is said of the models."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=problems(503))
async def readyz(service: ServiceDependency) -> dict[str, str | list[str]]:
    """The models are loaded and verified, and every engine has just made a step."""
    loaded = await service.check_ready()
    return {"status": "ready", "models": list(loaded.models)}


@router.head("/metrics", include_in_schema=False, response_class=Response)
@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceDependency) -> Response:
    """Figures for Prometheus."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)
