"""As much HTTP/1.1 as a fake needs: requests in, exact bytes out (RFC 9112)."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from urllib.parse import unquote

from hybrid_infer.testing.messages import ReceivedRequest, Response

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection_id: int
) -> ReceivedRequest | None:
    """The next request of a connection, or None when the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target = rest.rpartition(" ")[0]
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(reader, headers)
    return ReceivedRequest(method, unquote(target), headers, body, time.monotonic(), connection_id)


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = min(int(headers.get("content-length") or 0), MAX_BODY_BYTES)
        return await reader.readexactly(length)
    pieces: list[bytes] = []
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(pieces)


def response_bytes(response: Response, *, is_whole: bool) -> bytes:
    """The response as it goes on the wire.

    Args:
        response: what to send; events become one chunk each.
        is_whole: whether a stream of events ends with the last chunk that says so.
    """
    headers = dict(response.headers)
    if response.events is None:
        body = response.body
        headers.setdefault("content-length", str(len(body)))
    else:
        body = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in response.events)
        body += b"0\r\n\r\n" if is_whole else b""
        headers["transfer-encoding"] = "chunked"
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Scripted"
    lines = [f"HTTP/1.1 {response.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
