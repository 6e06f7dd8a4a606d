"""The wire for asyncio: one set of keep-alive connections for each event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator

import httpcore2

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import EngineClosedError, HybridInferError, RemoteProtocolError
from hybrid_infer.remote.exchange import Exchange
from hybrid_infer.remote.network_aio import AsyncBoundedNetwork
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


async def _pieces_of(response: httpcore2.Response) -> AsyncGenerator[bytes]:
    """The body, behind one empty piece; ends with `response` closed, however it ends.

    An event loop finishes the generators that nobody holds any more, if they have begun. So a
    reply that is dropped, half-read or unread, does not stay in its pool with its request.
    """
    pieces = response.aiter_stream()
    try:
        yield b""
        async for piece in pieces:
            yield piece
    finally:
        mark_if_spent(response)
        with contextlib.suppress(*FOREIGN_FAILURES):  # a broken connection may fail to close
            await response.aclose()
            await pieces.aclose()


class AsyncOpenReply:
    """`OpenReply`, awaited: a reply whose body may still be on its way.

    Args:
        channel: who sent the request.
        response: httpcore2's reply.
        pieces: its body; closes `response` when it is finished, or dropped with this object.
        exchange: of the request.

    Attributes:
        body: status, headers, decoding.
        exchange: its time; the deadline may be replaced between two reads.
    """

    def __init__(
        self,
        channel: AsyncChannel,
        response: httpcore2.Response,
        pieces: AsyncGenerator[bytes],
        exchange: Exchange,
    ) -> None:
        self.body = ReplyBody(channel.endpoint, response)
        self.exchange = exchange
        self._channel = channel
        self._response = response
        self._pieces = pieces
        self._is_reading = False
        self._is_closed = False

    async def read_some(self) -> bytes | None:
        """The next piece of the body, possibly empty; None at its end, or once closed.

        Raises:
            HybridInferError: the body broke off, took too long, or cannot be decoded.
        """
        if self._was_closed():
            return None
        self._is_reading = True
        failure: HybridInferError | None = None
        data: bytes | None = None
        try:
            data = await anext(self._pieces, None)
        except FOREIGN_FAILURES as error:
            failure = self._channel.failure(error, self.exchange)
        finally:
            self._is_reading = False
        if self._was_closed():
            return None
        if failure is not None:
            raise failure
        return self.body.decoded(data)

    def _was_closed(self) -> bool:
        return self._is_closed

    async def read(self) -> bytes:
        """The whole body, and the connection given back."""
        pieces = []
        try:
            while (piece := await self.read_some()) is not None:
                pieces.append(piece)
        finally:
            await self.aclose()
        self.exchange.deadline.renew()
        return b"".join(pieces)

    async def read_notice(self) -> bytes:
        """The start of an error's body, as far as it comes soon; the status says the rest."""
        self.body.limit_to_notice()
        self.exchange.deadline = self.exchange.deadline.at_most(NOTICE_SECONDS)
        pieces = []
        try:
            with contextlib.suppress(HybridInferError):
                while (piece := await self.read_some()) is not None:
                    pieces.append(piece)
        finally:
            await self.aclose()
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Release the connection; a task that is reading wakes up. Any number of times."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._is_reading:
            await self._pieces.aclose()
            return
        with contextlib.suppress(*FOREIGN_FAILURES):  # a broken connection may fail to close
            await self._response.aclose()


class _LoopPools:
    """The connections of one event loop, closed when the loop shuts down.

    ``asyncio.run`` closes the asynchronous generators of its loop before the loop itself; a
    generator that waits for that is how a library hears of the end in time.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.network = AsyncBoundedNetwork()
        self.kept = self._pool(endpoint, MAX_IDLE_CONNECTIONS)
        self.fresh = self._pool(endpoint, 0)
        self._until_shutdown = self._close_at_shutdown()

    def _pool(self, endpoint: Endpoint, max_idle: int) -> httpcore2.AsyncConnectionPool:
        return httpcore2.AsyncConnectionPool(
            ssl_context=endpoint.ssl_context,
            proxy=endpoint.proxy,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=max_idle,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=self.network,
        )

    async def watch_loop(self) -> None:
        await anext(self._until_shutdown)

    async def _close_at_shutdown(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(*FOREIGN_FAILURES):  # a broken connection may fail to close
                await self.kept.aclose()
                await self.fresh.aclose()

    def refuse(self) -> None:
        """Send nothing more; `aclose` does not reach calls that are still connecting."""
        self.network.is_closed = True

    async def aclose(self) -> None:
        self.refuse()
        await self._until_shutdown.aclose()


_channels: weakref.WeakSet[AsyncChannel] = weakref.WeakSet()
_Loops = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPools]


class AsyncChannel:
    """Sends requests to one remote from any number of tasks, on any number of event loops.

    Args:
        endpoint: the remote.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._loops: _Loops = _Loops()
        self._parents_loops: list[_Loops] = []
        self._lock = threading.Lock()
        self._is_closed = False
        _channels.add(self)

    async def open(self, posting: Posting, deadline: Deadline) -> AsyncOpenReply:
        """Send `posting` and wait for the head of the reply; see `Channel.open`.

        Raises:
            HybridInferError: no connection, no time, a broken reply, or the channel is closed.
        """
        exchange = self.endpoint.exchange(deadline)
        pools = await self._open_pools()
        outcome = await self._send(pools.kept, posting, exchange)
        if isinstance(outcome, RemoteProtocolError) and exchange.may_be_repeated():
            outcome = await self._send(pools.fresh, posting, exchange)
        if isinstance(outcome, HybridInferError):
            raise outcome
        pieces = _pieces_of(outcome)
        await anext(pieces)
        return AsyncOpenReply(self, outcome, pieces, exchange)

    def failure(self, error: Exception, exchange: Exchange) -> HybridInferError:
        """This library's error for a foreign one; to be raised outside of ``except``."""
        had_time = exchange.left() > 0.0
        return self.endpoint.failure(error, had_time=had_time, is_closed=self._is_closed)

    async def aclose(self) -> None:
        """End calls in flight with `EngineClosedError` and refuse new ones."""
        with self._lock:
            self._is_closed = True
            pools = self._loops.pop(asyncio.get_running_loop(), None)
        self.close()
        if pools is not None:
            await pools.aclose()

    def close(self) -> None:
        """`aclose` from outside of a loop: each loop closes its own connections when it next runs."""
        with self._lock:
            self._is_closed = True
            loops = list(self._loops.items())
            self._loops = _Loops()
        for loop, pools in loops:
            pools.refuse()
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so are they
                loop.call_soon_threadsafe(_close_soon, loop, pools)

    async def _send(
        self, pool: httpcore2.AsyncConnectionPool, posting: Posting, exchange: Exchange
    ) -> httpcore2.Response | HybridInferError:
        try:
            return await pool.handle_async_request(self.endpoint.request(posting, exchange))
        except FOREIGN_FAILURES as error:
            return self.failure(error, exchange)

    async def _open_pools(self) -> _LoopPools:
        loop = asyncio.get_running_loop()
        pools = self._loops.get(loop)
        if pools is not None:
            return pools
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the client is closed")
            for other in list(self._loops):
                if other.is_closed():
                    del self._loops[other]
            pools = self._loops.setdefault(loop, _LoopPools(self.endpoint))
        await pools.watch_loop()
        return pools

    def start_afresh(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._lock = threading.Lock()
        self._parents_loops.append(self._loops)
        self._loops = _Loops()


_closing: set[asyncio.Task[None]] = set()


def _close_soon(loop: asyncio.AbstractEventLoop, pools: _LoopPools) -> None:
    task = loop.create_task(pools.aclose())
    _closing.add(task)  # a loop holds its tasks weakly
    task.add_done_callback(_closing.discard)


def _start_afresh() -> None:
    for channel in list(_channels):
        channel.start_afresh()


os.register_at_fork(after_in_child=_start_afresh)
