"""One client's connection: bytes out, and an eye on whether the client is still there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

from hybrid_infer.testing.wire import MAX_HEAD_BYTES

_LINGER_NOT = struct.pack("ii", 1, 0)


class WatchedReader(asyncio.StreamReader):
    """A stream reader that tells at once when the client closes or vanishes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=MAX_HEAD_BYTES, loop=loop)
        self.on_gone: Callable[[], None] | None = None

    def feed_eof(self) -> None:
        """The client has closed its side."""
        super().feed_eof()
        self._tell()

    def set_exception(self, exc: Exception) -> None:
        """The connection broke."""
        super().set_exception(exc)
        self._tell()

    def _tell(self) -> None:
        if self.on_gone is not None:
            self.on_gone()


class Connection:
    """A connection, used on its event loop only.

    Attributes:
        id: counts the connections.
        reader: what the client sends.
        is_answering: whether a request has arrived whose answer has not ended.
        resets: whether closing sends a TCP reset.
    """

    def __init__(self, number: int, reader: WatchedReader, writer: asyncio.StreamWriter) -> None:
        self.id = number
        self.reader = reader
        self.is_answering = False
        self.resets = False
        self._writer = writer
        self._wake = asyncio.Event()
        self._is_gone = False
        reader.on_gone = self._note_gone
        # Waiting for the buffer to be empty means that the kernel has every byte that was sent.
        writer.transport.set_write_buffer_limits(0)

    def _note_gone(self) -> None:
        self._is_gone = True
        self._wake.set()

    def send_soon(self, data: bytes) -> None:
        """Send without waiting."""
        self._writer.write(data)

    async def send(self, data: bytes) -> None:
        """Send, and wait until the kernel has it; raises `ConnectionError` if the client is gone."""
        self._writer.write(data)
        await self._writer.drain()

    async def stall(self) -> bool:
        """Wait until `resume`, or until the client goes; returns whether it is still there."""
        if not self._is_gone:
            self._wake.clear()
            await self._wake.wait()
        return not self._is_gone

    def resume(self) -> None:
        """End a `stall`."""
        self._wake.set()

    async def close(self) -> None:
        """Close, by a reset if `resets`."""
        if self.resets:
            raw: socket.socket = self._writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # the client may have gone already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Close without waiting; what the kernel has not yet taken is dropped."""
        self._writer.close()
        self._writer.transport.abort()
