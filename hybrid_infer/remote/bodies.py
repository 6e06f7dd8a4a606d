"""Response bodies: decoded as they come, and never larger than allowed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from hybrid_infer.errors import RemoteProtocolError

_ANY_HEADER = 32 + zlib.MAX_WBITS  # zlib's code for "gzip or zlib, whichever it is"
_COMPRESSED = ("gzip", "x-gzip", "deflate")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who answered, and with which status."""

    host: str
    status: int

    def refused(self, what: str) -> RemoteProtocolError:
        """An answer that came, but cannot be taken; its status tells it from one that broke off."""
        return RemoteProtocolError(f"{self.host}: HTTP {self.status}: {what}", status=self.status)


class BodyDecoder:
    """Turns the bytes of one response into its body.

    Args:
        encoding: the ``Content-Encoding``, empty for none.
        max_bytes: largest body, counted after decoding, so that a few compressed bytes cannot
            become gigabytes.
        sender: who answered with which status, for messages.

    Raises:
        RemoteProtocolError: an encoding that was not asked for.
    """

    def __init__(self, encoding: str, max_bytes: int, sender: Sender) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", *_COMPRESSED):
            raise sender.refused("the answer has an encoding that was not asked for")
        self._sender = sender
        self._inflater = zlib.decompressobj(_ANY_HEADER) if encoding in _COMPRESSED else None
        self._bytes_left = max_bytes
        self._max_bytes = max_bytes
        self._has_input = False

    def feed(self, data: bytes) -> bytes:
        """The next piece of the body.

        Raises:
            RemoteProtocolError: the body is too large, or its compression is damaged.
        """
        if self._inflater is None:
            return self._counted(data)
        pieces: list[bytes] = []
        while data:
            if self._inflater.eof:  # gzip files may be several members in a row
                self._inflater = zlib.decompressobj(_ANY_HEADER)
            self._has_input = True
            piece: bytes | None
            try:
                piece = self._inflater.decompress(data, self._bytes_left + 1)
            except zlib.error:
                piece = None
            if piece is None:
                raise self._sender.refused("the answer's compression is damaged")
            pieces.append(self._counted(piece))
            data = self._inflater.unused_data if self._inflater.eof else b""
        return b"".join(pieces)

    def finish(self) -> None:
        """Check that the body is complete.

        Raises:
            RemoteProtocolError: its compressed form breaks off.
        """
        if self._inflater is not None and self._has_input and not self._inflater.eof:
            raise RemoteProtocolError(f"{self._sender.host}: the answer's compression breaks off")

    def _counted(self, piece: bytes) -> bytes:
        self._bytes_left -= len(piece)
        if self._bytes_left < 0:
            raise self._sender.refused(f"the answer is larger than {self._max_bytes} bytes")
        return piece
