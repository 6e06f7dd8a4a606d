"""The page at ``/``, and the events that keep it up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from hybrid_infer.server.routes.operations import status_document
from hybrid_infer.server.service import Service, service_of
from hybrid_infer.server.sse import UNBUFFERED, event

EVENT_SECONDS = 1.0
# Nothing from elsewhere may be loaded, and nobody may put the page into a frame.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(_: Request) -> Response:
    """One page, self-contained."""
    text = files("hybrid_infer.server.page").joinpath("index.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers=HEADERS)


@router.get("/events")
async def events(request: Request) -> Response:
    """What `/status` tells, once a second."""
    told = _states(service_of(request))
    return StreamingResponse(told, media_type="text/event-stream", headers=UNBUFFERED)


async def _states(service: Service) -> AsyncIterator[bytes]:
    while not service.is_draining:
        yield event(await status_document(service))
        await asyncio.sleep(EVENT_SECONDS)
