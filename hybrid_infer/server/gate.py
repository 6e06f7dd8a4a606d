"""What every request passes before any route sees it, whatever its path: who asks, and from where.

No path is exempt, so there is no path to be mistaken about.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import os
import re
from functools import lru_cache
from urllib.parse import urlsplit

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_infer.server.errors import STOPPING, TOO_MANY, ErrorAnswer, RefusedError
from hybrid_infer.server.options import ServerOptions, is_address, own_names
from hybrid_infer.server.service import Service
from hybrid_infer.server.work import CONNECTION, Connection

REQUEST_ID = b"x-request-id"

_SINGLE = (b"host", b"authorization", b"origin")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# Unlike any other process's, and told apart by a number: asking the kernel for each would cost a
# change of threads.
_PROCESS = os.urandom(10).hex().encode()
_NUMBERS = itertools.count(1)
_CHALLENGES = {False: b"Bearer", True: b'Basic realm="hybrid-infer", charset="UTF-8"'}


class Gate:
    """ASGI middleware: request ids, ``Host`` and ``Origin``, the key, and the end of the server.

    Args:
        app: what is behind it.
        options: the key and the host names.
        service: knows whether the server has been told to stop.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions, service: Service) -> None:
        self._app, self._key, self.service = app, options.key, service
        self._proxied = frozenset(options.host_names)
        names = own_names(options)

        @lru_cache(maxsize=1024)
        def is_own(host: bytes) -> bool:
            name = _name_of(host)
            return is_address(name) or name in names

        self._is_own = is_own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        connection: Connection = scope[CONNECTION]
        connection.name_answer(REQUEST_ID, _request_id(headers.get(REQUEST_ID)))
        try:
            if len(headers) < len(scope["headers"]):
                _check_repeated(scope["headers"])
            self._check(scope, headers)
        except RefusedError as refusal:
            await _refuse(connection, send, refusal.answer, headers, closes=refusal.closes)
            return
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.service.is_draining:
                raise
            if not connection.has_begun:  # the time to drain is over
                await _refuse(connection, send, STOPPING, headers, closes=True)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host, origin = headers.get(b"host"), headers.get(b"origin")
        self._check_host(host, scope)
        if origin is not None and not self._is_site(origin, host, scope["scheme"]):
            raise RefusedError(
                403, "pages of other sites may not ask this server", "wrong_origin",
                argument="origin", closes=True,
            )  # fmt: skip
        if self._key is not None and not self._key.matches(_given_key(headers)):
            raise RefusedError(
                401, "the key is missing or wrong; send it as Authorization: Bearer",
                "invalid_api_key",
            )  # fmt: skip
        if self.service.is_draining:
            raise RefusedError(STOPPING.status, STOPPING.message, STOPPING.code, closes=True)
        if scope["method"] == "POST":  # all that is work; refusing it must cost next to nothing
            self.service.admission.check_requests()

    def _check_host(self, host: bytes | None, scope: Scope) -> None:
        if host is None:
            if scope["http_version"] != "1.0":  # which had none; a browser always sends one
                raise RefusedError(
                    400, "there is no Host header", "missing_host", argument="host", closes=True
                )
        elif not self._is_own(host):
            raise RefusedError(
                403, "the Host header names another machine; --allowed-host adds a name",
                "wrong_host", argument="host", closes=True,
            )  # fmt: skip

    def _is_site(self, origin: bytes, host: bytes | None, scheme: str) -> bool:
        """Whether a page is one of this server's own, also as a proxy with TLS shows it."""
        if host is None:
            return False
        if origin == b"%s://%s" % (scheme.encode(), host):
            return True
        return origin == b"https://%s" % host and _name_of(host) in self._proxied


def _check_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    """Of two, a proxy may read the one and we the other: RFC 9112, 3.2."""
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            known = name.decode()
            raise RefusedError(
                400, f"there is more than one header {known}", "repeated_header", argument=known,
                closes=True,
            )  # fmt: skip


def _request_id(given: bytes | None) -> bytes:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return b"%s%012x" % (_PROCESS, next(_NUMBERS))


def _name_of(host: bytes) -> str:
    """The host of a ``Host`` header, without its port."""
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname or ""
    except ValueError:
        return ""


def _given_key(headers: dict[bytes, bytes]) -> bytes:
    """The key of a request: a bearer token, or the password that a browser has asked for."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    value = value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return value if scheme.lower() == b"bearer" else b""


async def _refuse(
    connection: Connection,
    send: Send,
    answer: ErrorAnswer,
    asked: dict[bytes, bytes],
    *,
    closes: bool,
) -> None:
    headers = error_headers(answer, closes=closes)
    if answer.status == 401:  # noqa: PLR2004 - HTTP
        is_browser = b"text/html" in asked.get(b"accept", b"")
        headers.append((b"www-authenticate", _CHALLENGES[is_browser]))
    body = orjson.dumps(answer.document())
    lines = b"".join([b"%s: %s\r\n" % header for header in headers])
    if not closes and connection.answer(answer.status, lines, body):
        return
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI
    """The application of a connection too many."""
    await _refuse(scope[CONNECTION], send, TOO_MANY, {}, closes=True)


def error_headers(answer: ErrorAnswer, *, closes: bool) -> list[tuple[bytes, bytes]]:
    """The headers of an error, but its length."""
    headers = [(b"content-type", b"application/json")]
    headers += [(name.encode(), value.encode()) for name, value in answer.headers().items()]
    if closes:
        headers.append((b"connection", b"close"))
    return headers
