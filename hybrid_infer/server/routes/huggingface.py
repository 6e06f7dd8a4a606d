"""Hugging Face's paths: the router's for hf-inference, and those of the retired host."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from hybrid_infer.client.compat import check_dimensions
from hybrid_infer.server import describing
from hybrid_infer.server.answers import Vectors, vector_bytes, vectors_bytes
from hybrid_infer.server.bodies import read_body
from hybrid_infer.server.calls import answer_chat, embedded
from hybrid_infer.server.schemas import ChatBody, FeaturesBody
from hybrid_infer.server.service import service_of

CHAT_PATHS = (
    "/hf-inference/models/{model:path}/v1/chat/completions",
    "/models/{model:path}/v1/chat/completions",
)
FEATURE_PATHS = (
    "/hf-inference/models/{model:path}/pipeline/feature-extraction",
    "/models/{model:path}/pipeline/feature-extraction",
    "/pipeline/feature-extraction/{model:path}",
)

router = APIRouter(tags=["Hugging Face"])


async def chat_completions(request: Request, model: describing.ModelInPath) -> Response:
    """A chat completion of the model that the path names."""
    return await answer_chat(request, model)


async def feature_extraction(request: Request, model: describing.ModelInPath) -> Response:
    """One flat vector for a text, a list of vectors for a list."""
    service = service_of(request)
    with service.admission.request():
        body = await read_body(request, FeaturesBody, service.limits)
        return await features(request, body, model, flattens=True)


async def features(request: Request, body: FeaturesBody, model: str, *, flattens: bool) -> Response:
    """The vectors that a body asks for.

    Args:
        request: of the body.
        body: what is asked.
        model: an alias or a Hub id.
        flattens: whether a text that is not in a list is answered by one flat vector.
    """
    result = await embedded(
        request,
        body.inputs,
        model,
        normalize=body.normalize is not False,
        truncate=body.truncate is not False,
    )
    check_dimensions(body.dimensions, result.space.dim)
    encoding = body.encoding_format or "float"
    if flattens and isinstance(body.inputs, str):
        content = vector_bytes(result.vectors[0], encoding)
    else:
        content = await vectors_bytes(result.vectors, encoding)
    return Vectors(content, result.route)


for path in CHAT_PATHS:
    router.add_api_route(
        path,
        chat_completions,
        methods=["POST"],
        openapi_extra=describing.body(ChatBody),
        responses=describing.answers(describing.ChatAnswer, stream=True),
    )
for path in FEATURE_PATHS:
    router.add_api_route(
        path,
        feature_extraction,
        methods=["POST"],
        openapi_extra=describing.body(FeaturesBody),
        responses=describing.answers(describing.FeaturesAnswer),
    )
