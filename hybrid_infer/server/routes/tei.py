"""The paths of text-embeddings-inference, for the embeddings alias ``default``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from hybrid_infer import __version__
from hybrid_infer.server import describing
from hybrid_infer.server.bodies import read_body
from hybrid_infer.server.calls import DEFAULT_MODEL
from hybrid_infer.server.routes.huggingface import features
from hybrid_infer.server.schemas import FeaturesBody
from hybrid_infer.server.service import service_of

router = APIRouter(tags=["text-embeddings-inference"])


@router.post(
    "/embed",
    openapi_extra=describing.body(FeaturesBody),
    responses=describing.answers(describing.VectorsAnswer),
)
async def embed(request: Request) -> Response:
    """A list of vectors, also for one text."""
    service = service_of(request)
    with service.admission.request():
        body = await read_body(request, FeaturesBody, service.limits)
        return await features(request, body, DEFAULT_MODEL, flattens=False)


@router.get("/info", responses=describing.answers(describing.InfoAnswer))
async def info(request: Request) -> dict[str, Any]:
    """What serves `/embed`, and its limits."""
    service = service_of(request)
    rows = await asyncio.to_thread(service.client.list_models)
    row = next(row for row in rows if row["name"] == f"embeddings/{DEFAULT_MODEL}")
    return {
        "model_id": row["repo"],
        "model_sha": row["revision"],
        "model_type": {"embedding": {}},
        "max_input_length": row["max_seq_length"],
        "max_client_batch_size": service.limits.max_texts,
        "max_concurrent_requests": service.limits.max_requests,
        "auto_truncate": True,
        "version": __version__,
    }
