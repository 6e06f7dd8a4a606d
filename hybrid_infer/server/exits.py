"""The way of an answer out of its request's cycle."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Transport
from collections.abc import Callable


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
