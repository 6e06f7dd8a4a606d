"""As much HTTP/1.1 as a fake needs: requests in, exact heads out (RFC 9112)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

from hybrid_infer.testing.messages import Headers, ReceivedRequest

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_REQUEST_LINE = re.compile(r"([!-~]+) ([!-~]+) HTTP/1\.([01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_LENGTH = re.compile(r"[0-9]{1,15}")


class BadRequestError(Exception):
    """A request that is not HTTP/1.1, or too large: answered with `status`, then hung up on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request, whether its connection may be used again, and whether chunks are understood."""

    request: ReceivedRequest
    keep_alive: bool
    knows_chunks: bool


async def read_request(
    reader: asyncio.StreamReader, connection_id: int, send: Callable[[bytes], None]
) -> Arrival | None:
    """The next request on a connection; None if the client has closed it.

    Args:
        reader: with a limit of `MAX_HEAD_BYTES`.
        connection_id: for the record.
        send: sends ``100 Continue`` to a client that waits for it.

    Raises:
        BadRequestError: it is malformed or too large.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise BadRequestError(431, "the head is larger than 64 KiB") from None
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequestError(400, "the first line is not a request's")
    headers = Headers(_field(text) for text in lines)
    if headers.get("expect", "").lower() == "100-continue":
        send(CONTINUE)
    try:
        body = await _read_body(reader, headers)
    except asyncio.IncompleteReadError:
        return None
    method, target, minor = line.groups()
    path, _, query = target.partition("?")
    request = ReceivedRequest(
        method, unquote(path), query, headers, body, time.monotonic(), connection_id
    )
    options = {option.strip() for option in headers.get("connection", "").lower().split(",")}
    is_old = minor == "0"
    keep_alive = "keep-alive" in options if is_old else "close" not in options
    return Arrival(request, keep_alive, knows_chunks=not is_old)


def _field(line: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadRequestError(400, "a line of the head is not 'name: value'")
    return match[1], match[2]


async def _read_body(reader: asyncio.StreamReader, headers: Headers) -> bytes:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise BadRequestError(400, "only 'transfer-encoding: chunked' alone is understood")
        return await _read_chunks(reader)
    if length is None:
        return b""
    if not _LENGTH.fullmatch(length):
        raise BadRequestError(400, "content-length is not a number")
    if int(length) > MAX_BODY_BYTES:
        raise BadRequestError(413, "the body is larger than 64 MiB")
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        size = _CHUNK_SIZE.fullmatch(await _read_line(reader))
        if size is None:
            raise BadRequestError(400, "a chunk has no size")
        num_bytes = int(size[1], 16)
        if len(body) + num_bytes > MAX_BODY_BYTES:
            raise BadRequestError(413, "the body is larger than 64 MiB")
        if num_bytes == 0:
            break
        body += await reader.readexactly(num_bytes)
        if await reader.readexactly(2) != b"\r\n":
            raise BadRequestError(400, "a chunk is longer than its size")
    while await _read_line(reader):
        pass  # trailers say nothing that is used here
    return bytes(body)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n"))[:-2]
    except asyncio.LimitOverrunError:
        raise BadRequestError(400, "a line is larger than 64 KiB") from None


def head_bytes(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """A response's head, headers in the order given and with no others added."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk_bytes(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body; nothing for nothing, which would end it."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""
