"""The wire for threads: keep-alive connections to one remote, and its replies as they arrive."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

import httpcore2

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import EngineClosedError, HybridInferError, RemoteProtocolError
from hybrid_infer.remote.exchange import Exchange
from hybrid_infer.remote.network import BoundedNetwork
from hybrid_infer.remote.postings import Posting
from hybrid_infer.remote.surplus import mark_if_spent
from hybrid_infer.remote.wire import (
    FOREIGN_FAILURES,
    IDLE_SECONDS,
    MAX_CONNECTIONS,
    MAX_IDLE_CONNECTIONS,
    NOTICE_SECONDS,
    Endpoint,
    ReplyBody,
)


class OpenReply:
    """A reply whose status has arrived and whose body may still be on its way.

    Attributes:
        body: status, headers, decoding.
        exchange: its time; the deadline may be replaced between two reads.
    """

    def __init__(self, channel: Channel, response: httpcore2.Response, exchange: Exchange) -> None:
        self.body = ReplyBody(channel.endpoint, response)
        self.exchange = exchange
        self._channel = channel
        self._response = response
        self._pieces = response.iter_stream()
        self._lock = threading.Lock()
        self._is_reading = False
        self._is_closed = False

    def read_some(self) -> bytes | None:
        """The next piece of the body, possibly empty; None at its end, or once closed.

        Raises:
            HybridInferError: the body broke off, took too long, or cannot be decoded.
        """
        if not self._begin():
            return None
        failure: HybridInferError | None = None
        data: bytes | None = None
        try:
            data = next(self._pieces, None)
        except FOREIGN_FAILURES as error:
            failure = self._channel.failure(error, self.exchange)
        finally:
            was_closed = self._end()
        if was_closed:
            return None
        if failure is not None:
            raise failure
        return self.body.decoded(data)

    def _begin(self) -> bool:
        with self._lock:
            self._is_reading = not self._is_closed
            return self._is_reading

    def _end(self) -> bool:
        """Whether the reply was closed during the read; then closing was left to its reader."""
        with self._lock:
            self._is_reading = False
            was_closed = self._is_closed
        if was_closed:
            self._release()
        return was_closed

    def _release(self) -> None:
        mark_if_spent(self._response)
        self._response.close()

    def read(self) -> bytes:
        """The whole body, and the connection given back."""
        pieces = []
        try:
            while (piece := self.read_some()) is not None:
                pieces.append(piece)
        finally:
            self.close()
        self.exchange.deadline.renew()
        return b"".join(pieces)

    def read_notice(self) -> bytes:
        """The start of an error's body, as far as it comes soon; the status says the rest."""
        self.body.limit_to_notice()
        self.exchange.deadline = self.exchange.deadline.at_most(NOTICE_SECONDS)
        pieces = []
        with contextlib.suppress(HybridInferError):
            while (piece := self.read_some()) is not None:
                pieces.append(piece)
        self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Release the connection; a thread that is reading wakes up. Any thread, any number of times."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            is_reading = self._is_reading
        if is_reading:
            self.exchange.abort()
        else:
            self._release()

    def __del__(self) -> None:
        self.close()  # a stream that is dropped half-read gives its connection back


class _Pools:
    """The connections of one process."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.network = BoundedNetwork()
        self.kept = self._pool(endpoint, MAX_IDLE_CONNECTIONS)
        self.fresh = self._pool(endpoint, 0)

    def _pool(self, endpoint: Endpoint, max_idle: int) -> httpcore2.ConnectionPool:
        return httpcore2.ConnectionPool(
            ssl_context=endpoint.ssl_context,
            proxy=endpoint.proxy,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=max_idle,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=self.network,
        )

    def close(self) -> None:
        self.network.close()
        self.kept.close()
        self.fresh.close()


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


class Channel:
    """Sends requests to one remote from any number of threads.

    Args:
        endpoint: the remote.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._pools: _Pools | None = None
        self._parents_pools: list[_Pools] = []
        self._is_closed = False
        _channels.add(self)

    def open(
        self, posting: Posting, deadline: Deadline, exchange: Exchange | None = None
    ) -> OpenReply:
        """Send `posting` and wait for the head of the reply.

        A keep-alive connection that the server had closed before any byte of the reply is
        replaced by a fresh one, once.

        Args:
            posting: what to send.
            deadline: bounds everything, look-up and connecting included.
            exchange: given by a caller who may want to abort it.

        Raises:
            HybridInferError: no connection, no time, a broken reply, or the channel is closed.
        """
        if exchange is None:
            exchange = self.endpoint.exchange(deadline)
        exchange.deadline = deadline
        pools = self._open_pools()
        outcome = self._send(pools.kept, posting, exchange)
        if isinstance(outcome, RemoteProtocolError) and exchange.may_be_repeated():
            outcome = self._send(pools.fresh, posting, exchange)
        if isinstance(outcome, HybridInferError):
            raise outcome
        return OpenReply(self, outcome, exchange)

    def failure(self, error: Exception, exchange: Exchange) -> HybridInferError:
        """This library's error for a foreign one; to be raised outside of ``except``."""
        had_time = exchange.left() > 0.0
        return self.endpoint.failure(error, had_time=had_time, is_closed=self._is_closed)

    def close(self) -> None:
        """End calls in flight with `EngineClosedError` and refuse new ones."""
        with self._lock:
            self._is_closed = True
            pools, self._pools = self._pools, None
        if pools is not None:
            pools.close()

    def _send(
        self, pool: httpcore2.ConnectionPool, posting: Posting, exchange: Exchange
    ) -> httpcore2.Response | HybridInferError:
        try:
            return pool.handle_request(self.endpoint.request(posting, exchange))
        except FOREIGN_FAILURES as error:
            return self.failure(error, exchange)

    def _open_pools(self) -> _Pools:
        pools = self._pools
        if pools is not None:
            return pools
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the client is closed")
            if self._pools is None:
                self._pools = _Pools(self.endpoint)
            return self._pools

    def start_afresh(self) -> None:
        """In a forked child: leave the parent's connections and locks alone, and open new ones."""
        self._lock = threading.Lock()
        if self._pools is not None:
            # Dropping them would close sockets that the parent is using, with a warning.
            self._parents_pools.append(self._pools)
        self._pools = None


def _start_afresh() -> None:
    for channel in list(_channels):
        channel.start_afresh()


os.register_at_fork(after_in_child=_start_afresh)
