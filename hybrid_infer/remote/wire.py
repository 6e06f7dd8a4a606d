"""What both wires share: the request builder, and the one border where foreign failures end."""

from __future__ import annotations

import ssl
from functools import cached_property
from urllib.parse import urlsplit

import httpcore2
import httpx2

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import (
    APIConnectionError,
    APITimeoutError,
    EngineClosedError,
    HybridInferError,
    RemoteProtocolError,
)
from hybrid_infer.remote.bodies import BodyDecoder, Sender
from hybrid_infer.remote.exchange import Exchange
from hybrid_infer.remote.header_values import Headers
from hybrid_infer.remote.keys import Secret, redact
from hybrid_infer.remote.postings import Posting
from hybrid_infer.remote.proxies import environment_proxy
from hybrid_infer.settings import Settings

MAX_CONNECTIONS = 256
MAX_IDLE_CONNECTIONS = 64
IDLE_SECONDS = 30.0
NOTICE_BYTES = 64 * 1024
NOTICE_SECONDS = 1.0
USER_AGENT = b"hybrid-infer"

FOREIGN_FAILURES: tuple[type[Exception], ...] = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
    httpcore2.ConnectionNotAvailable,
    httpx2.InvalidURL,
    UnicodeError,
    OSError,  # socket, ssl and TimeoutError among them
)

_TIMEOUTS = (httpcore2.TimeoutException, TimeoutError)
_NOTHING_ANSWERED = (
    httpcore2.ConnectError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
    httpx2.InvalidURL,
    ssl.SSLError,
)


class Endpoint:
    """One remote as the wire sees it: address, headers built once, limits.

    Args:
        base_url: validated scheme, host and optional port and path; a ``/v1`` at its end is
            left out.
        key: sent as a bearer token; None sends none.
        settings: connect timeout and largest body.
    """

    def __init__(self, base_url: str, key: Secret | None, settings: Settings) -> None:
        parts = urlsplit(base_url)
        self.base_url = base_url
        self.host = parts.netloc
        self.key = key
        self.max_body_bytes = settings.memory.max_body_bytes
        self.proxy = environment_proxy(base_url)
        self._connect_seconds = settings.routing.connect_timeout_seconds
        self._scheme = parts.scheme.encode("ascii")
        self._hostname = (parts.hostname or "").encode("ascii")
        self._port = parts.port
        # Many servers are known by their OpenAI root, .../v1, which the dialects' paths repeat.
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = self._built_headers(b"application/json", b"gzip")
        # A compressed stream arrives in the compressor's blocks, not in events.
        self._stream_headers = self._built_headers(b"text/event-stream", b"identity")

    def _built_headers(self, accept: bytes, encoding: bytes) -> Headers:
        headers = [
            (b"Host", self.host.encode("ascii")),
            (b"User-Agent", USER_AGENT),
            (b"Accept", accept),
            (b"Accept-Encoding", encoding),
            (b"Content-Type", b"application/json"),
        ]
        if self.key is not None:
            headers.append((b"Authorization", b"Bearer " + self.key.reveal().encode("latin-1")))
        return headers

    @cached_property
    def ssl_context(self) -> ssl.SSLContext | None:
        """Verifies certificates against the system's store; None for plain http."""
        return httpx2.create_ssl_context() if self._scheme == b"https" else None

    def exchange(self, deadline: Deadline) -> Exchange:
        """A new exchange with this remote."""
        exchange = Exchange(deadline, self._connect_seconds)
        deadline.on_cancel(exchange.abort)
        return exchange

    def request(self, posting: Posting, exchange: Exchange) -> httpcore2.Request:
        """The request that both wires send."""
        return httpcore2.Request(
            b"POST",
            httpcore2.URL(
                scheme=self._scheme,
                host=self._hostname,
                port=self._port,
                target=(self._prefix + posting.path).encode("ascii"),
            ),
            headers=[
                *(self._stream_headers if posting.streams else self._headers),
                (b"Content-Length", b"%d" % len(posting.body)),
            ],
            content=posting.body,
            extensions={"timeout": exchange.timeouts()},
        )

    def failure(
        self, error: Exception, *, had_time: bool = True, is_closed: bool = False
    ) -> HybridInferError:
        """This library's error for a foreign one, which must not stay reachable from it.

        Foreign exceptions hold requests, and requests hold headers and prompts. So the result
        is raised outside of the ``except`` block, which would chain the foreign one to it.
        A connection that did not come is the host's doing, unless the call itself `had_time`
        for less.
        """
        if is_closed:
            return EngineClosedError("the client was closed during the call")
        if isinstance(error, httpcore2.ConnectTimeout) and had_time:
            return APIConnectionError(
                f"{self.host}: no connection within {self._connect_seconds:g} s"
            )
        if isinstance(error, httpcore2.PoolTimeout):
            waited = APITimeoutError(
                f"{self.host}: none of the {MAX_CONNECTIONS} connections of this client was free in time"
            )
            waited.was_sent = False
            return waited
        if isinstance(error, _TIMEOUTS):
            return APITimeoutError(f"{self.host}: an answer did not come in time")
        if isinstance(error, _NOTHING_ANSWERED):
            return APIConnectionError(f"{self.host}: no connection: {redact(str(error), self.key)}")
        return RemoteProtocolError(f"{self.host}: the connection broke before the answer was whole")


class ReplyBody:
    """Decodes one reply's body; the half of an open reply that performs no I/O."""

    def __init__(self, endpoint: Endpoint, response: httpcore2.Response) -> None:
        self.status = response.status
        self.headers: Headers = response.headers
        self._sender = Sender(endpoint.host, response.status)
        self._max_bytes = endpoint.max_body_bytes
        self._decoder: BodyDecoder | None = None

    def header(self, name: str) -> str:
        """The values of one header, joined by commas; empty if it is missing."""
        wanted = name.lower().encode("ascii")
        values = [value for key, value in self.headers if key.lower() == wanted]
        return b", ".join(values).decode("latin-1")

    def limit_to_notice(self) -> None:
        """Take no more of the body than an error message needs."""
        self._max_bytes = min(self._max_bytes, NOTICE_BYTES)

    def decoded(self, data: bytes | None) -> bytes | None:
        """The next piece of the body, possibly empty; None at its end.

        Raises:
            RemoteProtocolError: too large, an unknown encoding, or damaged.
        """
        if self._decoder is None:
            self._decoder = BodyDecoder(
                self.header("content-encoding"), self._max_bytes, self._sender
            )
        if data is None:
            self._decoder.finish()
            return None
        return self._decoder.feed(data)
