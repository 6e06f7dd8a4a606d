"""Requests as Serve's proxies pass them on, for an application that was made for connections of its own."""

from __future__ import annotations

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_infer.server.errors import ErrorAnswer
from hybrid_infer.server.gate import REQUEST_ID, error_headers
from hybrid_infer.server.options import is_loopback_address
from hybrid_infer.server.work import CONNECTION, UntilGone

_NO_KEY = ErrorAnswer(
    403,
    "this cluster has no key, so it answers its own machine only: set HYBRID_INFER_SERVER_KEY "
    "wherever Ray's processes start",
    "no_key",
)


class ProxiedConnection:
    """The connection of a request that a proxy has taken: the proxy watches it.

    Serve cancels a request whose client has left, so there is nothing to tell here. What the server
    writes past ASGI on a connection of its own goes through ASGI here.
    """

    is_gone = False
    is_whole = False  # the body may still be on its way
    refusal: ErrorAnswer | None = None

    def __init__(self) -> None:
        self.has_begun = False
        self.headers: list[tuple[bytes, bytes]] = []  # that the answer gets, whoever gives it

    def whole_body(self) -> bytes:
        """Nothing: it comes through ASGI."""
        return b""

    def answer(self, status: int, head: bytes, body: bytes) -> bool:  # noqa: ARG002 - as every connection's
        """False: it goes through ASGI."""
        return False

    def name_answer(self, name: bytes, value: bytes) -> None:
        """Add a header to the answer."""
        self.headers.append((name, value))

    def watch(self, work: UntilGone) -> None:
        """Nothing: a client that leaves is a cancellation."""

    def unwatch(self, work: UntilGone) -> None:
        """Nothing, as above."""


class Proxied:
    """ASGI middleware between Serve and the server's gate.

    Args:
        app: the gate.
        has_key: whether the gate asks for a key; if not, only clients on the proxy's own machine
            are answered, because a proxy may listen on any address.
    """

    def __init__(self, app: ASGIApp, *, has_key: bool) -> None:
        self._app, self._has_key = app, has_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        connection = ProxiedConnection()

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":  # the proxy has named the request, too
                connection.has_begun = True
                pairs = (*message["headers"], *connection.headers)
                message["headers"] = [pair for pair in pairs if pair[0] != REQUEST_ID]
            await send(message)

        if not self._has_key and not _is_loopback(scope):
            await _refuse(send_on, _NO_KEY)
            return
        scope[CONNECTION] = connection
        await self._app(scope, receive, send_on)


def _is_loopback(scope: Scope) -> bool:
    client = scope.get("client")
    return client is not None and is_loopback_address(client[0])


async def _refuse(send: Send, answer: ErrorAnswer) -> None:
    body = orjson.dumps(answer.document())
    headers = [*error_headers(answer, closes=True), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
