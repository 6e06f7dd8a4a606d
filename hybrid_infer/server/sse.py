"""A chat stream as server-sent events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html; ``[DONE]`` and error
events as OpenAI's API has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hybrid_infer.client.streams import AsyncChatStream
from hybrid_infer.errors import HybridInferError
from hybrid_infer.server.answers import chunk_document
from hybrid_infer.server.errors import STOPPING, answer_for
from hybrid_infer.server.work import GoneError, UntilGone

DONE = b"data: [DONE]\n\n"
UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(document: Any) -> bytes:
    """One event that holds a JSON document."""
    return b"data: %s\n\n" % orjson.dumps(document)


class ChatEvents(Response):
    """The chunks of a stream, then ``[DONE]``; an error in between is the last event.

    The stream is closed when the client leaves, or leaves an event unread for too long.

    Args:
        stream: what is answered.
        held: what is given back when the stream has ended.
        wants_usage: whether the last chunk tells the token counts.
        headers: further ones.
        reader_seconds: how long an event may stay unread.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        stream: AsyncChatStream,
        held: ExitStack,
        *,
        wants_usage: bool,
        headers: dict[str, str],
        reader_seconds: float,
    ) -> None:
        super().__init__(headers={**UNBUFFERED, **headers})
        del self.headers["content-length"]
        self._stream, self._held = stream, held
        self._wants_usage, self._reader_seconds = wants_usage, reader_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the events."""

        async def write(piece: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(self._reader_seconds):
                await send({"type": "http.response.body", "body": piece, "more_body": more})

        try:
            with self._held:
                async with self._stream as stream:
                    with UntilGone(scope):
                        await send(
                            {
                                "type": "http.response.start",
                                "status": 200,
                                "headers": self.raw_headers,
                            }
                        )
                        await self._write_all(stream, write)
        except (GoneError, TimeoutError):
            return  # nobody reads; the server closes what is not complete

    async def _write_all(
        self, stream: AsyncChatStream, write: Callable[..., Awaitable[None]]
    ) -> None:
        try:
            async for chunk in stream:
                await write(event(chunk_document(chunk, wants_usage=self._wants_usage)))
        except HybridInferError as error:
            await write(event(answer_for(error).document()), more=False)
        except asyncio.CancelledError:  # the server's time to drain is over, or nobody reads this
            await write(event(STOPPING.document()), more=False)
            raise
        else:
            await write(DONE, more=False)
