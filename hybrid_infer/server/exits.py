"""The way of an answer out of its request's cycle."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Transport
from collections.abc import Callable
from typing import cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Exit:
    """A cycle's transport: an answer's head goes with its body, and closing is polite.

    Each write is a call of the kernel, in which a thread that computes takes the interpreter.

    Args:
        transport: the connection's.
        loop: its event loop.
        end: called where the cycle closes.
    """

    def __init__(
        self, transport: Transport, loop: AbstractEventLoop, end: Callable[[], None]
    ) -> None:
        self._transport, self._loop, self._end = transport, loop, end
        self._head: bytes | None = None
        self._has_head = False
        self.is_closing = transport.is_closing

    def write_whole(self, data: bytes) -> None:
        """Send an answer's head and body."""
        self._has_head = True
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes, the head a little later."""
        if not self._has_head:
            self._has_head, self._head = True, data
            self._loop.call_soon(self.send_head)
            return
        if self._head is not None:
            data, self._head = self._head + data, None
        self._transport.write(data)

    def send_head(self) -> None:
        """Send what is held back."""
        if self._head is not None:
            self._transport.write(self._head)
            self._head = None

    def close(self) -> None:
        """End the connection."""
        self.send_head()
        self._end()


_CHUNKED = b"transfer-encoding: chunked\r\n"


class PlainExit(Exit):
    """An exit to a client of HTTP/1.0, which knows no chunks: its answer ends with the connection.

    Source: RFC 9112, 6.1. The cycle, which is uvicorn's, makes chunks for whoever asks.
    """

    _is_chunked = False

    def write(self, data: bytes) -> None:
        """Send bytes, out of their chunks."""
        if not self._has_head:
            head, chunked, end = data.partition(_CHUNKED)
            self._is_chunked = bool(chunked)
            super().write(head + end)
        elif not self._is_chunked:
            super().write(data)
        elif data:  # a whole chunk, maybe the last one behind it
            size, _, rest = data.partition(b"\r\n")
            super().write(rest[: int(size, 16)])


def write_whole(cycle: RequestResponseCycle, status: int, head: bytes, body: bytes) -> bool:
    """Write a whole answer that leaves its connection open, if all is as it mostly is.

    Anything else is left to uvicorn, which checks every header of every answer, in two messages.

    Args:
        cycle: of the request.
        status: the answer's code.
        head: header lines, each with its line end, but for the length.
        body: what follows them.

    Returns:
        Whether it is written.
    """
    is_usual = cycle.keep_alive and not (cycle.more_body or cycle.disconnected)
    if not is_usual or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
        return False
    named = [b"%s: %s\r\n" % pair for pair in cycle.default_headers]
    length = b"content-length: %d\r\n\r\n" % len(body)
    transport = cast("Exit", cycle.transport)
    transport.write_whole(b"".join([STATUS_LINE[status], *named, head, length, body]))
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    cycle.on_response()
    return True
