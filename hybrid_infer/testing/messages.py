"""What a fake remote receives, and what it can be told to answer."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

_SECRET_HEADERS = frozenset({"authorization", "x-api-key"})


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it arrived.

    Attributes:
        method: ``GET``, ``POST``.
        path: path and query.
        headers: by lower-case name.
        body: the bytes of the body.
        received_at: monotonic seconds at which the whole request was there.
        connection_id: the same number for requests on one connection.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    received_at: float
    connection_id: int

    @property
    def body_json(self) -> Any:
        """The body as JSON; None if there is none or it is something else."""
        try:
            return json_module.loads(self.body)
        except ValueError:
            return None

    @property
    def masked_headers(self) -> dict[str, str]:
        """The headers, safe to print."""
        return {k: "***" if k in _SECRET_HEADERS else v for k, v in self.headers.items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer. What is left out stays as the healthy answer has it.

    Attributes:
        status: the HTTP status.
        headers: added to, or replacing, the healthy ones.
        json: a body as JSON.
        body: a body as bytes or text.
        events: a stream's events instead of the healthy ones: mappings become JSON, strings
            are sent as they are after ``data:``.
        cut_after_bytes: close after that many bytes of the response, head included.
        cut_after_events: close after that many events of a stream.
        clean_end: end a cut stream with a proper last chunk: it looks whole, and is not.
        stall_after_bytes: send that many bytes, then nothing until the client goes.
        drip_bytes: bytes a piece, each followed by `drip_seconds`; 0: all at once.
        drip_seconds: the pause between two pieces.
        disconnect: close without a byte.
        reset: cut with a TCP reset instead of a close.
        path: only requests whose path matches this glob; others get the next reply in line.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: bytes | str | None = None
    events: Sequence[Any] | None = None
    cut_after_bytes: int | None = None
    cut_after_events: int | None = None
    clean_end: bool = False
    stall_after_bytes: int | None = None
    drip_bytes: int = 0
    drip_seconds: float = 0.0
    disconnect: bool = False
    reset: bool = False
    path: str = "*"

    def matches(self, request: ReceivedRequest) -> bool:
        """Whether this reply is for `request`."""
        return fnmatchcase(request.path.partition("?")[0], self.path)

    @property
    def is_healthy(self) -> bool:
        """Whether the body is to be the healthy answer's."""
        has_body = self.json is not None or self.body is not None or self.events is not None
        return not has_body and self.status in (None, 200)


@dataclass(frozen=True, slots=True)
class Response:
    """A response before it goes on the wire: a body, or a stream's events."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    events: tuple[bytes, ...] | None = None

    @classmethod
    def of_json(cls, content: Any, status: int = 200) -> Response:
        """A JSON answer."""
        body = json_module.dumps(content, ensure_ascii=False).encode()
        return cls(status, {"content-type": "application/json"}, body)

    @classmethod
    def of_events(cls, events: Sequence[Any]) -> Response:
        """A stream of server-sent events."""
        headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
        return cls(200, headers, b"", tuple(_event_bytes(event) for event in events))


def _event_bytes(event: Any) -> bytes:
    text = event if isinstance(event, str) else json_module.dumps(event, ensure_ascii=False)
    return b"".join(b"data: " + line + b"\n" for line in text.encode().split(b"\n")) + b"\n"


def scripted(reply: Reply, healthy: Response) -> Response:
    """`healthy` with what `reply` says."""
    status = reply.status or (200 if reply.is_healthy else healthy.status)
    if reply.events is not None:
        response = Response.of_events(reply.events)
    elif reply.json is not None:
        response = Response.of_json(reply.json)
    elif reply.body is not None:
        raw = reply.body.encode() if isinstance(reply.body, str) else reply.body
        response = Response(200, {"content-type": "text/html"}, raw)
    elif reply.is_healthy:
        response = healthy
    else:
        response = Response.of_json({"error": f"scripted status {status}"})
    events = response.events
    if events is not None and reply.cut_after_events is not None:
        events = events[: reply.cut_after_events]
    return Response(status, {**response.headers, **reply.headers}, response.body, events)
