"""One client's connection: uvicorn's, with the bounds of time and size that it does not have.

Source of the slow-client bounds: CWE-400, "slowloris"; of the lingering close: RFC 9112, 9.6.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle, Transport
from typing import TYPE_CHECKING, Any, NoReturn, cast

import httptools
import orjson
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from hybrid_infer.server.errors import TOO_MANY, TOO_MUCH, ErrorAnswer
from hybrid_infer.server.exits import Exit, PlainExit, write_whole
from hybrid_infer.server.gate import error_headers, refuse_connection
from hybrid_infer.server.parsing import OneProtocolParser, is_offer
from hybrid_infer.server.work import CONNECTION, UntilGone
from hybrid_infer.settings import ServerSettings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

LINGER_SECONDS = 2.0
MAX_PIPELINED = 64  # requests that wait for the answer of the one before them


class ServerConfig(Config):
    """uvicorn's configuration, and our limits."""

    limits: ServerSettings = ServerSettings()


class BoundedConnection(HttpToolsProtocol):
    """Refuses heads that are too large or too slow, and one connection too many.

    An answer in progress is never written into: what is wrong behind it ends the connection after
    it. A client that does not read is cut off.

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
        self.parser = OneProtocolParser(self)
        self._limits = config.limits
        self._head_timer: TimerHandle | None = None
        self._linger_timer: TimerHandle | None = None
        self._reader_timer: TimerHandle | None = None
        self._unparsed_bytes = self._fields_bytes = self._waiting_bytes = 0
        self._reads_head = self._reads_body = self._drops_input = self._is_surplus = False
        self._answering: RequestResponseCycle | None = None
        self._work: set[UntilGone] = set()
        self.refusal: ErrorAnswer | None = None
        self.is_gone = False

    @property
    def is_whole(self) -> bool:
        """Whether the request that is being answered is all here."""
        return self._answering is not None and not self._answering.more_body

    @property
    def has_begun(self) -> bool:
        """Whether the answer to the request that is being answered has begun."""
        return self._answering is not None and self._answering.response_started

    def whole_body(self) -> bytes:
        """The body of a request that is all here; once."""
        cycle = cast("RequestResponseCycle", self._answering)
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def name_answer(self, name: bytes, value: bytes) -> None:
        """Add a header to the answer, whoever gives it."""
        cycle = cast("RequestResponseCycle", self._answering)
        cycle.default_headers = [*cycle.default_headers, (name, value)]

    def answer(self, status: int, head: bytes, body: bytes) -> bool:
        """Write a whole answer at once; False if that cannot be, and nothing is written."""
        return write_whole(cast("RequestResponseCycle", self._answering), status, head, body)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client has connected; its head is awaited."""
        super().connection_made(transport)
        self._is_surplus = len(self.connections) > self._limits.max_connections
        self._await_head()

    def eof_received(self) -> None:
        """The client says no more, which we take for its leaving."""
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side has closed: what is done for the client ends."""
        self._stop_timers()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
        self.is_gone = True
        super().connection_lost(exc)
        for work in tuple(self._work):
            work.client_left()

    def watch(self, work: UntilGone) -> None:
        """Tell `work` when the client leaves."""
        self._work.add(work)
        self._read_on()

    def unwatch(self, work: UntilGone) -> None:
        """Tell it no longer."""
        self._work.discard(work)

    def _read_on(self) -> None:
        """Read while there is work, or nobody would notice that the client leaves."""
        if self._work:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes have come; those after the last request that will be answered are dropped."""
        if self._drops_input:
            return
        if not (self._reads_head or self._reads_body):
            data = data.lstrip(b"\r\n")  # no request begins with them: RFC 9112, 2.2
            if not data:
                return
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > self._limits.max_header_bytes:
            self._refuse(self._too_large())  # the parser still gathers a header, or a chunk's size
        elif self._reads_head and self._head_timer is None:  # most come whole and need none
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._reads_head, self._fields_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or, after the body, one trailer: these are of no use and dropped."""
        self._fields_bytes += len(name) + len(value)
        if self._fields_bytes > self._limits.max_header_bytes:
            self._stop_parsing(self._too_large())
        if not self._reads_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request's head is here."""
        if is_offer(self.parser):
            return
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._unparsed_bytes, self._reads_head, self._reads_body = 0, False, True
        if len(self.url) + self._fields_bytes > self._limits.max_header_bytes:
            self._stop_parsing(self._too_large())
        if len(self.pipeline) == MAX_PIPELINED:
            self._stop_parsing(TOO_MANY)
        cast("dict[str, Any]", self.scope)[CONNECTION] = self
        super().on_headers_complete()
        kind = Exit
        if self.scope["http_version"] == "1.0":
            kind = PlainExit
            self.cycle.waiting_for_100_continue = False  # which 1.0 does not know: RFC 9110, 10.1.1
        self.cycle.transport = cast("Transport", kind(self.transport, self.loop, self.end))
        self._read_on()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unparsed_bytes = 0
        if self.pipeline:  # the newest of them is the body's
            self._waiting_bytes += len(body)
            if self._waiting_bytes > self._limits.max_body_bytes:
                self._stop_parsing(TOO_MUCH)
        super().on_body(body)
        self._read_on()

    def on_message_complete(self) -> None:
        """A request is whole."""
        if is_offer(self.parser):
            return
        self._unparsed_bytes, self._reads_body = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out."""
        is_whole = self.is_whole  # now: the next request may be begun below
        super().on_response_complete()
        if not is_whole or self._linger_timer is not None:
            if self._answering is not None:
                cast("Exit", self._answering.transport).send_head()  # of HEAD: there was no body
            self._linger()
        elif self._reads_head:
            self._await_head()

    def pause_writing(self) -> None:
        """The client does not read what it was sent: it has some time for that."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has read most of it."""
        super().resume_writing()
        if self._reader_timer is not None and not self.transport.is_closing():
            self._reader_timer.cancel()
            self._reader_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked."""
        self._close()

    def end(self) -> None:
        """End the connection once its answer is out, and what the client still sends has come."""
        if self.is_whole and not self._drops_input:
            self._close()
        else:
            self._linger()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP."""
        self._refuse(ErrorAnswer(400, msg, "bad_request"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        self._waiting_bytes -= len(cycle.body)
        surplus = cast("ASGI3Application", refuse_connection)
        super()._start_asgi_task(cycle, surplus if self._is_surplus else app)

    @property
    def _is_answering(self) -> bool:
        """Whether a request that has begun, not always the first of them, has no answer yet."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _await_head(self) -> None:
        if self._drops_input or self._is_answering or self.transport.is_closing():
            return
        self._head_timer = self.loop.call_later(self._limits.header_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if not self._reads_head:
            self._close()  # nothing was asked, so nothing is answered
            return
        seconds = self._limits.header_seconds
        message = f"the request's head did not arrive within {seconds:g} s"
        self._refuse(ErrorAnswer(408, message, "request_timeout"))

    def _too_large(self) -> ErrorAnswer:
        most = self._limits.max_header_bytes
        return ErrorAnswer(431, f"the headers are larger than {most:,} bytes", "headers_too_large")

    def _stop_parsing(self, answer: ErrorAnswer) -> NoReturn:
        self._refuse(answer)
        raise httptools.HttpParserError(answer.message)

    def _refuse(self, answer: ErrorAnswer) -> None:
        """Answer what no application will see, and end the connection.

        An answer that is in progress stays what it is. Whoever still reads the body of its request
        learns of the refusal, and answers with it.
        """
        if self._drops_input or self.transport.is_closing():
            return
        self._drops_input = True
        if self._is_answering:
            self.refusal = answer
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
            return
        body = orjson.dumps(answer.document())
        head = [(b"content-length", str(len(body)).encode()), *error_headers(answer, closes=True)]
        lines = [b"%s: %s\r\n" % pair for pair in head]
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", body]))
        self._linger()

    def _linger(self) -> None:
        if self.transport.is_closing():
            return
        self._drops_input = True
        self._stop_timers()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_SECONDS, self._close)

    def _close(self) -> None:
        """Close; a client that does not read what it was sent may delay that, but not for good."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._await_reader()

    def _await_reader(self) -> None:
        if self._reader_timer is None:
            seconds = self._limits.body_seconds
            self._reader_timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = None
