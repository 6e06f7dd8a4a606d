"""OpenAI's paths: ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/models``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from hybrid_infer.client.compat import check_dimensions
from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.server import describing
from hybrid_infer.server.answers import Vectors, embeddings_bytes
from hybrid_infer.server.bodies import read_body
from hybrid_infer.server.calls import answer_chat, embedded
from hybrid_infer.server.schemas import ChatBody, EmbeddingsBody
from hybrid_infer.server.service import Service, service_of

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/chat/completions",
    openapi_extra=describing.body(ChatBody),
    responses=describing.answers(describing.ChatAnswer, stream=True),
)
async def chat_completions(request: Request) -> Response:
    """A chat completion; `stream: true` gives server-sent events."""
    return await answer_chat(request)


@router.post(
    "/v1/embeddings",
    openapi_extra=describing.body(EmbeddingsBody),
    responses=describing.answers(describing.EmbeddingsAnswer),
)
async def embeddings(request: Request) -> Response:
    """Vectors of one text or of a list of texts."""
    service = service_of(request)
    with service.admission.request():
        body = await read_body(request, EmbeddingsBody, service.limits)
        result = await embedded(request, body.input, body.model)
        check_dimensions(body.dimensions, result.space.dim)
        content = await embeddings_bytes(
            result.vectors, body.encoding_format, result.route.model, result.usage.prompt_tokens
        )
        return Vectors(content, result.route)


@router.get("/v1/models", responses=describing.answers(describing.ModelsAnswer))
async def models(request: Request) -> dict[str, Any]:
    """Every alias, with its task: `chat/small` and `embeddings/small` are two models."""
    return {"object": "list", "data": await _models(service_of(request))}


@router.get(
    "/v1/models/{model:path}",
    responses=describing.answers(describing.ModelAnswer),
)
async def one_model(request: Request, model: describing.ModelInPath) -> dict[str, Any]:
    """One alias, under any name that a request may give it; of two that differ in task, the first."""
    rows = await _models(service_of(request))
    named = [row for row in rows if model in (row["id"], row["root"])]
    named += [row for row in rows if model == row["id"].partition("/")[2]]
    if named:
        return named[0]
    raise InvalidRequestError(f"there is no model {model[:96]!r} here", argument="model")


async def _models(service: Service) -> list[dict[str, Any]]:
    rows = await asyncio.to_thread(service.client.list_models)
    return [
        {
            "id": row["name"],
            "object": "model",
            "created": int(service.started_at),
            "owned_by": row["repo"].partition("/")[0],
            "root": row["repo"],
        }
        for row in rows
    ]
