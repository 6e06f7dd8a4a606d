"""httpcore2's network backend for asyncio, with every operation bounded by its exchange."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2

from hybrid_infer.remote.exchange import Allowance
from hybrid_infer.remote.lookups import look_up_async
from hybrid_infer.remote.network import connect_budget, seconds_left
from hybrid_infer.remote.surplus import Reusable, left_in_tls


class AsyncBoundedStream(Reusable, httpcore2.AsyncNetworkStream):
    """A connection whose every operation takes no longer than its exchange has left.

    Args:
        inner: the connection below.
        network: what it belongs to; once that is closed, nothing more is sent.
    """

    def __init__(self, inner: httpcore2.AsyncNetworkStream, network: AsyncBoundedNetwork) -> None:
        self._inner = inner
        self._network = network
        self._has_answered = False
        self._may_hold_more = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore2's signature
        """The next bytes, at most `max_bytes`; empty at the end."""
        data = await self._inner.read(max_bytes, seconds_left(timeout, httpcore2.ReadTimeout))
        self._may_hold_more = len(data) >= max_bytes  # anyio splits what came in one piece
        if data:
            self._has_answered = True
            if isinstance(timeout, Allowance):
                timeout.exchange.is_answered = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore2's signature
        """Send all of `buffer`."""
        if isinstance(timeout, Allowance):
            timeout.exchange.is_reused = self._has_answered
        await self.end_if_late()
        await self._inner.write(buffer, seconds_left(timeout, httpcore2.WriteTimeout))

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
    ) -> AsyncBoundedStream:
        """The same connection, encrypted."""
        await self.end_if_late()
        try:
            seconds = seconds_left(timeout, httpcore2.ConnectTimeout)
            inner = await self._inner.start_tls(ssl_context, server_hostname, seconds)
        except BaseException:  # cancelling included
            await self.aclose()
            raise
        return AsyncBoundedStream(inner, self._network)

    async def end_if_late(self) -> None:
        """Close a connection that was not yet its pool's when the pool was closed.

        Raises:
            ConnectError: it is late. (A WriteError would have the answer waited for.)
        """
        if self._network.is_closed:
            await self.aclose()
            raise httpcore2.ConnectError("the network is closed")

    async def aclose(self) -> None:
        """Close the connection; a task that reads wakes up."""
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        """What the connection below knows of itself; an idle one that is readable is closed."""
        if info == "is_readable" and (
            self.is_spent or self._may_hold_more or left_in_tls(self._inner)
        ):
            return True
        return self._inner.get_extra_info(info)


class AsyncBoundedNetwork(httpcore2.AsyncNetworkBackend):
    """Opens `AsyncBoundedStream`s.

    Attributes:
        is_closed: set from any thread; connections that come later end at once.
    """

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()
        self.is_closed = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncBoundedStream:
        """A connection to the first address of `host` that answers in its share of the time."""
        budget = connect_budget(timeout)
        try:
            addresses = await look_up_async(host, port, budget.left())
        except TimeoutError:
            raise httpcore2.ConnectTimeout("the name look-up took too long") from None
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"the name look-up failed: {error}") from None
        if self.is_closed:
            raise httpcore2.ConnectError("the network is closed")
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for tried, address in enumerate(addresses):
            try:
                share = seconds_left(budget.left(), httpcore2.ConnectTimeout) / (
                    len(addresses) - tried
                )
                inner = await self._inner.connect_tcp(
                    address, port, share, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                stream = AsyncBoundedStream(inner, self)
                await stream.end_if_late()
                return stream
        raise failure
