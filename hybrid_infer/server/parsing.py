"""The HTTP parser: httptools', for a server that changes no protocol."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Parser = httptools.HttpRequestParser


class OneProtocolParser(Parser):
    """Reads a request that offers another protocol as if it did not.

    A server may ignore the offer (RFC 9110, 7.8), and Java's own client and ``curl --http2`` make it with
    every first request. httptools takes it for accepted: all behind the head would be the other protocol's,
    and the request's body another request.

    Args:
        connection: what is told of the requests.
    """

    def __init__(self, connection: HttpToolsProtocol) -> None:
        super().__init__(connection)
        self._connection = connection
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def feed_data(self, data: bytes | bytearray | memoryview[int] | array[int]) -> None:
        """Parse what has come.

        Raises:
            HttpParserError: it is not HTTP.
            HttpParserUpgrade: it asks for a tunnel.
        """
        parser: Parser = self
        while True:
            try:
                Parser.feed_data(parser, data)
            except httptools.HttpParserUpgrade as offer:
                if not is_offer(parser):
                    raise
                # A parser of its own: to the old one the connection may have ended with that head.
                data = _plain_head(parser, self._connection) + bytes(data[offer.args[0] :])
                parser = self._connection.parser = OneProtocolParser(self._connection)
            else:
                return


def _plain_head(parser: Parser, connection: HttpToolsProtocol) -> bytes:
    """The head that has been read, without the offer."""
    version = parser.get_http_version().encode()
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), connection.url, version)]
    for name, value in connection.headers:
        if name != b"upgrade":
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def is_offer(parser: Parser) -> bool:
    """Whether the head just read offers another protocol; it is read once more without."""
    return parser.should_upgrade() and parser.get_method() != b"CONNECT"
