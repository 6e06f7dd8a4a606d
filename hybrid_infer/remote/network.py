"""httpcore2's network backend for threads, with every operation bounded by its exchange."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import httpcore2

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.remote.exchange import MAX_SECONDS, Allowance, Exchange
from hybrid_infer.remote.lookups import look_up
from hybrid_infer.remote.surplus import Reusable, left_in_tls

WRITE_BYTES = 64 * 1024


def seconds_left(timeout: float | None, error: type[Exception]) -> float:
    """The time an operation may take now.

    Raises:
        Exception: `error`, if there is none left. (To a socket, 0 would mean "do not block".)
    """
    if timeout is None:
        return MAX_SECONDS
    seconds = timeout.left() if isinstance(timeout, Allowance) else timeout
    if seconds <= 0.0:
        raise error("no time left")
    return seconds


class OpenStreams:
    """The connections of one pool, held weakly."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[BoundedStream] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_closed = False

    def add(self, stream: BoundedStream) -> None:
        """Remember `stream` while it lives; one that comes too late ends at once."""
        with self._lock:
            self._streams.add(stream)
            is_closed = self._is_closed
        if is_closed:
            stream.interrupt()

    def close(self) -> None:
        """End every one of them, and every later one."""
        with self._lock:
            self._is_closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.interrupt()


class BoundedStream(Reusable, httpcore2.NetworkStream):
    """A connection that any thread may close or interrupt while another one reads.

    Closing a file descriptor under a blocked reader would leave it on a number that the next
    socket may get; so the reader is woken first, and closes the descriptor itself.
    """

    def __init__(self, inner: httpcore2.NetworkStream, open_streams: OpenStreams) -> None:
        self._inner = inner
        self._open_streams = open_streams
        self._lock = threading.Lock()
        self._is_busy = False
        self._is_closed = False
        self._has_answered = False
        self._carries: weakref.ref[Exchange] | None = None
        open_streams.add(self)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes, at most `max_bytes`; empty at the end."""
        self._begin(httpcore2.ReadError)
        try:
            data = self._inner.read(max_bytes, seconds_left(timeout, httpcore2.ReadTimeout))
        finally:
            self._end()
        if data:
            self._has_answered = True
            if isinstance(timeout, Allowance):
                timeout.exchange.is_answered = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of `buffer`."""
        if isinstance(timeout, Allowance):
            with self._lock:
                self._carries = weakref.ref(timeout.exchange)
            timeout.exchange.travels_on(self, has_answered=self._has_answered)
        self._begin(httpcore2.WriteError)
        try:
            for start in range(0, len(buffer), WRITE_BYTES):
                seconds = seconds_left(timeout, httpcore2.WriteTimeout)
                self._inner.write(buffer[start : start + WRITE_BYTES], seconds)
        finally:
            self._end()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> BoundedStream:
        """The same connection, encrypted."""
        try:
            seconds = seconds_left(timeout, httpcore2.ConnectTimeout)
            inner = self._inner.start_tls(ssl_context, server_hostname, seconds)
        except BaseException:
            self.close()
            raise
        return BoundedStream(inner, self._open_streams)

    def interrupt(self) -> None:
        """End the connection; a blocked reader wakes to its end."""
        connection = self._inner.get_extra_info("socket")
        with contextlib.suppress(OSError):  # already gone
            # Not SSLSocket's own method, which forgets its TLS state under a reader.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def interrupt_for(self, exchange: Exchange) -> None:
        """End the connection, unless it carries another exchange by now."""
        with self._lock:  # or the next one might begin in between
            if self._carries is not None and self._carries() is exchange:
                self.interrupt()

    def close(self) -> None:
        """Close the connection, now or as soon as its reader has woken."""
        with self._lock:
            self._is_closed = True
            if self._is_busy:
                self.interrupt()
            else:
                self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        """What the connection below knows of itself; an idle one that is readable is closed."""
        if info == "is_readable" and (self.is_spent or left_in_tls(self._inner)):
            return True
        return self._inner.get_extra_info(info)

    def _begin(self, error: type[Exception]) -> None:
        with self._lock:
            if self._is_closed:
                raise error("the connection is closed")
            self._is_busy = True

    def _end(self) -> None:
        with self._lock:
            self._is_busy = False
            if self._is_closed:
                self._inner.close()


class BoundedNetwork(httpcore2.NetworkBackend):
    """Opens `BoundedStream`s; a look-up and all addresses together take no longer than asked."""

    def __init__(self) -> None:
        self._inner = httpcore2.SyncBackend()
        self._open_streams = OpenStreams()

    def close(self) -> None:
        """End every open connection, and every later one."""
        self._open_streams.close()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> BoundedStream:
        """A connection to the first address of `host` that answers in its share of the time."""
        budget = connect_budget(timeout)
        try:
            addresses = look_up(host, port, budget.left())
        except TimeoutError:
            raise httpcore2.ConnectTimeout("the name look-up took too long") from None
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"the name look-up failed: {error}") from None
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for tried, address in enumerate(addresses):
            try:
                share = seconds_left(budget.left(), httpcore2.ConnectTimeout) / (
                    len(addresses) - tried
                )
                inner = self._inner.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return BoundedStream(inner, self._open_streams)
        raise failure


def connect_budget(timeout: float | None) -> Deadline:
    """The time for one connection, every address and the look-up included."""
    return Deadline(seconds_left(timeout, httpcore2.ConnectTimeout))
