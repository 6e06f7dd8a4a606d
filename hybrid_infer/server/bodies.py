"""Request bodies: read within bounds of size and time, parsed, and checked against their schema."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from hybrid_infer.errors import InvalidRequestError
from hybrid_infer.server.errors import RefusedError
from hybrid_infer.server.work import CONNECTION, Connection, GoneError
from hybrid_infer.settings import ServerSettings

_BodyT = TypeVar("_BodyT", bound=BaseModel)
_MEMBERS = ("str", "int", "float", "bool")  # what pydantic calls the members of unions


async def read_body(request: Request, kind: type[_BodyT], limits: ServerSettings) -> _BodyT:
    """The request's body as `kind`.

    Raises:
        RefusedError: 413 too large, 408 too slow, 415 not JSON by its own word, 400 not of `kind`, 400 or
            431 where its rest is not HTTP or has too large headers.
        InvalidRequestError: not JSON, or too deep.
        GoneError: the client left before its last byte.
    """
    declared = _header(request, b"content-type", b"application/json")
    media_type = declared.lower()
    if b"json" not in media_type and b"octet-stream" not in media_type:
        raise RefusedError(
            415,
            "the body must be JSON (content-type: application/json), "
            f"not {declared[:60].decode('latin-1')!r}",
            "unsupported_media_type",
            closes=True,
        )
    raw = await _raw_body(request, limits)
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequestError("the body must be a JSON object")
    # Nothing is nested deeper than there are brackets that open; to count them is next to nothing.
    if raw.count(b"{") + raw.count(b"[") > limits.max_json_depth:
        check_depth(document, limits.max_json_depth)
    return parsed(document, kind)


async def _raw_body(request: Request, limits: ServerSettings) -> bytes:
    connection: Connection = request.scope[CONNECTION]
    if connection.is_whole:  # as most are: there is nothing to wait for
        body = connection.whole_body()
        if len(body) > limits.max_body_bytes:
            raise _too_large(limits)
        return body
    size = _header(request, b"content-length", b"0")
    if int(size) > limits.max_body_bytes:  # the HTTP parser has let digits through only
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _received(request, limits)
    except TimeoutError:
        raise RefusedError(
            408, f"the body did not arrive within {limits.body_seconds:g} s", "request_timeout",
            closes=True,
        ) from None  # fmt: skip


def _header(request: Request, name: bytes, default: bytes) -> bytes:
    """The first header of a name; Starlette would make an object of all of them first."""
    for key, value in request.scope["headers"]:
        if key == name:
            first: bytes = value
            return first
    return default


async def _received(request: Request, limits: ServerSettings) -> bytes:
    pieces: list[bytes] = []
    length = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        if message["more_body"] and (refusal := request.scope[CONNECTION].refusal) is not None:
            raise RefusedError(refusal.status, refusal.message, refusal.code, closes=True)
        pieces.append(message["body"])
        length += len(message["body"])
        if length > limits.max_body_bytes:
            raise _too_large(limits)
        if not message["more_body"]:
            return b"".join(pieces)


def _too_large(limits: ServerSettings) -> RefusedError:
    message = f"the body is larger than {limits.max_body_bytes:,} bytes"
    return RefusedError(413, message, "body_too_large", closes=True)


def check_depth(document: Any, most: int) -> None:
    """Refuse nesting that nobody needs, before anything recurses into it.

    Raises:
        InvalidRequestError: there are lists and objects within more than `most` others.
    """
    level = [document]
    for _ in range(most):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise InvalidRequestError(f"the body is nested more than {most} deep")


def parsed(document: dict[str, Any], kind: type[_BodyT]) -> _BodyT:
    """`document` as `kind`.

    Raises:
        RefusedError: it is not; its answer names the first field at fault. No model has been looked for, so
            this is none that does not exist, even if the field is ``model``.
    """
    try:
        return kind.model_validate(document, strict=True)
    except ValidationError as error:
        # The most telling one: of a union's members, the one that got furthest.
        first = max(error.errors(include_url=False, include_input=False), key=_depth)
        name = _field(first["loc"])
        if first["type"] == "extra_forbidden":
            message = f"unknown field {name!r}"
        elif first["type"] == "missing":
            message = f"{name} is required"
        else:
            message = f"{name}: {first['msg']}"
        raise RefusedError(400, message, "invalid_value", argument=name) from None


def _depth(error: Any) -> int:
    return len(error["loc"])


def _field(location: tuple[int | str, ...]) -> str:
    """``messages[0].role`` of pydantic's location."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part.isidentifier() and part not in _MEMBERS:
            name += f".{part}" if name else part
    return name
