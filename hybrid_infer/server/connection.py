"""One client's connection: uvicorn's, with the bounds of time and size that it does not have.

Source of the slow-client bounds: CWE-400, "slowloris"; of the lingering close: RFC 9112, 9.6.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle, Transport
from typing import TYPE_CHECKING, Any, cast

import orjson
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from hybrid_infer.server.errors import ErrorAnswer
from hybrid_infer.server.gate import error_headers
from hybrid_infer.server.work import CONNECTION, UntilGone
from hybrid_infer.settings import ServerSettings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

LINGER_SECONDS = 2.0
_TOO_MANY = ErrorAnswer(429, "the server is full: too many connections are open", "overloaded")


class ServerConfig(Config):
    """uvicorn's configuration, and our limits."""

    limits: ServerSettings = ServerSettings()


class BoundedConnection(HttpToolsProtocol):
    """Refuses heads that are too large or too slow, and one connection too many.

    A request that is answered before all of it has arrived ends its connection, but not at once:
    closing while its bytes still arrive would reset the connection, and take the answer away from
    the client that has not read it yet.
    """

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._head_timer: TimerHandle | None = None
        self._linger_timer: TimerHandle | None = None
        self._head_bytes = 0
        self._reads_body = self._is_surplus = False
        self._work: set[UntilGone] = set()
        self.is_whole = self.is_gone = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client has connected; its head is awaited."""
        super().connection_made(transport)
        self._is_surplus = len(self.connections) > self._limits.max_connections
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side has closed: what is done for the client ends."""
        self._stop_timers()
        self.is_gone = True
        super().connection_lost(exc)
        for work in tuple(self._work):
            work.client_left()

    def watch(self, work: UntilGone) -> None:
        """Tell `work` when the client leaves; reading goes on, or nobody would notice."""
        self._work.add(work)
        self.flow.resume_reading()

    def unwatch(self, work: UntilGone) -> None:
        """Tell it no longer."""
        self._work.discard(work)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; those of a request that has its answer are dropped."""
        if self._linger_timer is not None:
            return
        if not self._reads_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._reads_body or not self._head_bytes:
            return
        if self._head_bytes > self._limits.max_header_bytes:
            self._refuse(self._too_large())
        elif self._head_timer is None:  # most heads come whole and need none
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.is_whole = False

    def on_headers_complete(self) -> None:
        """A request's head is here."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._head_bytes, self._reads_body = 0, True
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._limits.max_header_bytes:
            self._refuse(self._too_large())
            return
        cast("dict[str, Any]", self.scope)[CONNECTION] = self
        super().on_headers_complete()
        self.cycle.transport = cast("Transport", _Exit(self))

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if self._linger_timer is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._reads_body, self.is_whole = False, True
        if self._linger_timer is None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out."""
        super().on_response_complete()
        if not self.is_whole or self._linger_timer is not None:
            self._linger()

    def end(self) -> None:
        """End the connection once its answer is out, and what the client still sends has come."""
        if self.is_whole:
            self.transport.close()
        else:
            self._linger()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP."""
        self._refuse(ErrorAnswer(400, msg, "bad_request"))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        surplus = cast("ASGI3Application", _too_many)
        super()._start_asgi_task(cycle, surplus if self._is_surplus else app)

    def _await_head(self) -> None:
        if self._linger_timer is not None or self.transport.is_closing():
            return
        self._head_timer = self.loop.call_later(self._limits.header_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if not self._head_bytes:
            self.transport.close()  # nothing was asked, so nothing is answered
            return
        seconds = self._limits.header_seconds
        message = f"the request's head did not arrive within {seconds:g} s"
        self._refuse(ErrorAnswer(408, message, "request_timeout"))

    def _too_large(self) -> ErrorAnswer:
        most = self._limits.max_header_bytes
        return ErrorAnswer(431, f"the headers are larger than {most:,} bytes", "headers_too_large")

    def _refuse(self, answer: ErrorAnswer) -> None:
        """Answer a request that no application will see, and end the connection."""
        if self._linger_timer is not None or self.transport.is_closing():
            return
        body = orjson.dumps(answer.document())
        head = [(b"content-length", str(len(body)).encode()), *error_headers(answer, closes=True)]
        lines = [b"%s: %s\r\n" % pair for pair in head]
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", body]))
        self._linger()

    def _linger(self) -> None:
        if self.transport.is_closing():
            return
        self._stop_timers()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = None


class _Exit:
    """The way out of a request's cycle: an answer's head goes with its body, and closing is polite.

    Each write is a call of the kernel, in which a thread that computes takes the interpreter.
    """

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection
        self._head: bytes | None = None
        self._has_head = False
        self.is_closing = connection.transport.is_closing

    def write(self, data: bytes) -> None:
        """Send bytes, the head a little later."""
        if not self._has_head:
            self._has_head, self._head = True, data
            self._connection.loop.call_soon(self._send_head)
            return
        if self._head is not None:
            data, self._head = self._head + data, None
        self._connection.transport.write(data)

    def _send_head(self) -> None:
        if self._head is not None:
            self._connection.transport.write(self._head)
            self._head = None

    def close(self) -> None:
        """End the connection."""
        self._send_head()
        self._connection.end()


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI
    """The application of a connection too many."""
    body = orjson.dumps(_TOO_MANY.document())
    headers = [(b"content-length", str(len(body)).encode())]
    headers += error_headers(_TOO_MANY, closes=True)
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body})
