"""The application: routes behind one gate, and errors in one shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hybrid_infer import __version__
from hybrid_infer.client.aio import AsyncHybridClient
from hybrid_infer.errors import HybridInferError
from hybrid_infer.server.bodies import GoneError
from hybrid_infer.server.describing import DescribedApp
from hybrid_infer.server.errors import ErrorAnswer, RefusedError, answer_for
from hybrid_infer.server.gate import Gate
from hybrid_infer.server.metrics import Metrics
from hybrid_infer.server.options import ServerOptions
from hybrid_infer.server.routes import huggingface, openai, operations, page, tei
from hybrid_infer.server.service import Service
from hybrid_infer.server.statistics import Statistics
from hybrid_infer.settings import ServerSettings

CLIENT_LEFT = 499  # nginx's word for it; nobody reads it


def create_app(
    client: AsyncHybridClient,
    options: ServerOptions,
    limits: ServerSettings,
    statistics: Statistics,
    metrics: Metrics,
) -> Gate:
    """The server's application behind its gate; it closes the client when it ends.

    Args:
        client: serves every call; its observers are `statistics` and that of `metrics`.
        options: who may ask.
        limits: for what.
        statistics: what `/status` and the page tell.
        metrics: what `/metrics` tells.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.close()

    service = Service(client, limits, statistics, metrics)
    app = DescribedApp(
        title="hybrid_infer",
        version=__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    for family in (openai, huggingface, tei, operations, page):
        # Not include_router: each request would be matched against every router, and then its routes.
        app.router.routes.extend(family.router.routes)
    app.add_exception_handler(HybridInferError, _failed)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(GoneError, _gone)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(Exception, _crashed)
    return Gate(app, options, service)


async def _failed(request: Request, error: Exception) -> Response:
    is_openai = request.url.path == "/v1/embeddings"
    return _response(
        answer_for(cast("HybridInferError", error), texts_name="input" if is_openai else "inputs")
    )


async def _refused(_: Request, error: Exception) -> Response:
    refusal = cast("RefusedError", error)
    response = _response(refusal.answer)
    if refusal.closes:
        response.headers["connection"] = "close"
    return response


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _not_found(_: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    phrase = HTTPStatus(refusal.status_code).phrase.lower()
    answer = ErrorAnswer(refusal.status_code, f"{phrase} here", phrase.replace(" ", "_"))
    response = _response(answer)
    response.headers.update(refusal.headers or {})
    return response


async def _crashed(_: Request, __: Exception) -> Response:
    # Whatever went wrong is logged by the server with its trace; the client gets no detail.
    return _response(ErrorAnswer(500, "something went wrong in the server", "internal_error"))


def _response(answer: ErrorAnswer) -> JSONResponse:
    return JSONResponse(answer.document(), answer.status, answer.headers())
