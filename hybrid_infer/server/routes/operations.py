"""For those who run the server: ``/health``, ``/status``, ``/metrics``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from hybrid_infer import __version__
from hybrid_infer.server import describing
from hybrid_infer.server.errors import RefusedError
from hybrid_infer.server.service import Service, service_of

router = APIRouter(tags=["Operations"])


@router.get("/health", responses=describing.answers(describing.HealthAnswer))
async def health(request: Request) -> dict[str, str]:
    """Whether the server can serve: what is in memory computes something tiny when in doubt."""
    problem = await service_of(request).health.problem()
    if problem is not None:
        raise RefusedError(503, f"unhealthy: {problem}", "unhealthy")
    return {"status": "ok"}


@router.get("/status", responses=describing.answers(describing.StatusAnswer))
async def status(request: Request) -> dict[str, Any]:
    """Every alias, every target's state with the seconds until it is asked again, and recent calls."""
    return await status_document(service_of(request))


async def status_document(service: Service) -> dict[str, Any]:
    """The state of a server, as `/status` and the page tell it."""
    models = await asyncio.to_thread(service.client.list_models)
    targets = await asyncio.to_thread(service.client.status)
    return {
        "version": __version__,
        "started_at": service.started_at,
        "policy": targets["policy"],
        "remotes": targets["remotes"],
        "models": [
            {
                name: row[name]
                for name in ("name", "repo", "revision", "remotes", "local", "local_detail")
            }
            for row in models
        ],
        "requests_in_progress": service.admission.requests,
        "texts_waiting": service.admission.texts,
        "most_texts_waiting": service.admission.most_texts,
        "refused": service.admission.refused,
        "recent": service.statistics.recent(),
    }


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses=describing.answers(None),
)
async def metrics(request: Request) -> Response:
    """Counts in Prometheus' text format, or OpenMetrics where that is asked for."""
    accepted = request.headers.get("accept", "")
    text, content_type = service_of(request).metrics.exposition(accepted)
    return Response(text, headers={"content-type": content_type})
