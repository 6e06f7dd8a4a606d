"""The paths as they are served: Starlette's router before our functions, and errors in one shape.

FastAPI describes the paths and is not on the way of a request: what it does there (dependencies, exit
stacks, checks of what our functions check themselves) took a quarter of a request's processor time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_infer.errors import HybridInferError
from hybrid_infer.server.answers import JSON
from hybrid_infer.server.errors import ErrorAnswer, RefusedError, answer_for
from hybrid_infer.server.service import Service
from hybrid_infer.server.work import CONNECTION, Connection, GoneError

ENDLESS = ("/events",)  # HEAD is answered by what GET is, but for the body
CLIENT_LEFT = 499  # nginx's word for it; nobody reads it
# Whatever went wrong is logged by the server with its trace; the client gets no detail.
CRASHED = ErrorAnswer(500, "something went wrong in the server", "internal_error")

Function = Callable[..., Awaitable[Any]]
Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


class Endpoint:
    """One function as an ASGI application.

    Args:
        function: takes the request, and by name what its path holds; returns a response, or what
            is its JSON.
    """

    def __init__(self, function: Function) -> None:
        self._function = function

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call it, and send what it returns."""
        answer = await self._function(Request(scope, receive), **scope.get("path_params", {}))
        if not isinstance(answer, Response):
            answer = Response(orjson.dumps(answer), media_type=JSON)
        await answer(scope, receive, send)


class Application:
    """Every path, and an answer to every error.

    Args:
        described: the paths, in the order in which they are tried.
        service: what their functions work with.
        description: the OpenAPI description.
        lifespan: of the server.
    """

    def __init__(
        self,
        described: Iterable[Any],
        service: Service,
        description: Callable[[], dict[str, Any]],
        lifespan: Lifespan,
    ) -> None:
        async def openapi(_: Request) -> dict[str, Any]:
            return description()

        routes = [_served(route) for route in described if isinstance(route, APIRoute)]
        routes.append(Route("/openapi.json", Endpoint(openapi), methods=["GET"]))
        self.service = service
        # Paths that hold nothing are found at once; the router would try each, in turn.
        self._plain: dict[tuple[str, str], ASGIApp] = {
            (method, route.path): route.app
            for route in routes
            if not route.param_convertors
            for method in route.methods or ()
        }
        self._router = Router(routes, lifespan=lifespan, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        scope["app"] = self
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        try:
            await self._plain.get((scope["method"], scope["path"]), self._router)(
                scope, receive, send
            )
        except Exception as error:  # whatever it is, the client gets an answer
            connection: Connection = scope[CONNECTION]
            if connection.has_begun:
                raise
            known = answered(error, scope["path"])
            await (known or response(CRASHED))(scope, receive, send)
            if known is None:
                raise


def _served(described: APIRoute) -> Route:
    route = Route(described.path, Endpoint(described.endpoint), methods=described.methods)
    if described.path in ENDLESS:
        route.methods = described.methods
    return route


def answered(error: Exception, path: str) -> Response | None:
    """What a client is told of an error; None: that it is ours."""
    if isinstance(error, RefusedError):
        return response(error.answer, closes=error.closes)
    if isinstance(error, HybridInferError):
        texts_name = "input" if path == "/v1/embeddings" else "inputs"
        return response(answer_for(error, texts_name=texts_name))
    if isinstance(error, GoneError):
        return Response(status_code=CLIENT_LEFT)
    if isinstance(error, HTTPException):  # the router's own: no such path, or not this method
        phrase = HTTPStatus(error.status_code).phrase.lower()
        refusal = response(
            ErrorAnswer(error.status_code, f"{phrase} here", phrase.replace(" ", "_"))
        )
        refusal.headers.update(error.headers or {})
        return refusal
    return None


def response(answer: ErrorAnswer, *, closes: bool = False) -> Response:
    """An error as it is sent."""
    headers = answer.headers() | ({"connection": "close"} if closes else {})
    return Response(orjson.dumps(answer.document()), answer.status, headers, JSON)
