"""From the client's results to bytes on the wire, in the shapes that clients of OpenAI's expect."""

from __future__ import annotations

import asyncio
from binascii import b2a_base64
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hybrid_infer.datatypes.chat import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatUsage,
    ChunkChoice,
    ToolCall,
)
from hybrid_infer.datatypes.route import Route
from hybrid_infer.server.work import CONNECTION, Connection

Encoding = Literal["float", "base64"]

NUMBERS_PER_TURN = 65_536  # written at once, about 5 ms, before other requests get the loop
JSON = "application/json"
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
HEADER_PREFIX = "x-hybrid-infer-"
_TOLD = ("backend", "provider", "model", "revision", "reason", "attempts")  # of a route


class Vectors(Response):
    """An answer with vectors, of which there are many a second.

    Args:
        content: JSON.
        route: who computed them.
    """

    def __init__(self, content: bytes, route: Route) -> None:
        # Starlette would write its headers now, and uvicorn check and write them again.
        self._content, self._route = content, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        connection: Connection = scope[CONNECTION]
        if not connection.answer(200, _head(*_told(self._route)), self._content):
            headers = route_headers(self._route)
            await Response(self._content, 200, headers, JSON)(scope, receive, send)


def route_headers(route: Route) -> dict[str, str]:
    """Who served, why, and after how many tries."""
    return _named(*_told(route))


def _told(route: Route) -> tuple[str | int | None, ...]:
    """What is told of a route, in the order of `_TOLD`."""
    return (
        route.backend, route.provider, route.model, route.revision, route.reason,
        len(route.attempts),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _head(*values: str | int | None) -> bytes:
    """Header lines of an answer in JSON, as they are sent: the same again and again."""
    headers = {"content-type": JSON, **_named(*values)}
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")


def _named(*values: str | int | None) -> dict[str, str]:
    """Headers of those of `_TOLD` that there are, as a header may hold them."""
    return {
        HEADER_PREFIX + name: quote(str(value), safe="/@:.-_ ")
        for name, value in zip(_TOLD, values, strict=True)
        if value is not None and value != ""
    }


def completion_document(result: ChatCompletion) -> dict[str, Any]:
    """OpenAI's ``chat.completion``."""
    return {
        "id": result.id,
        "object": "chat.completion",
        "created": result.created,
        "model": result.model,
        "choices": [_choice(choice) for choice in result.choices],
        "usage": _usage(result.usage),
    }


def _choice(choice: ChatChoice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": choice.message.role, "content": choice.message.content}
    if choice.message.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in choice.message.tool_calls]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": choice.finish_reason,
    }


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _usage(usage: ChatUsage) -> dict[str, int | None]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def chunk_document(chunk: ChatChunk, *, wants_usage: bool) -> dict[str, Any]:
    """OpenAI's ``chat.completion.chunk``."""
    document: dict[str, Any] = {
        "id": chunk.id,
        "object": "chat.completion.chunk",
        "created": chunk.created,
        "model": chunk.model,
        "choices": [_chunk_choice(choice) for choice in chunk.choices],
    }
    if wants_usage:  # null on every chunk but the last, as OpenAI has it
        document["usage"] = None if chunk.usage is None else _usage(chunk.usage)
    return document


def _chunk_choice(choice: ChunkChoice) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if choice.delta.role is not None:
        delta["role"] = choice.delta.role
    if choice.delta.content is not None:
        delta["content"] = choice.delta.content
    if choice.delta.tool_calls:
        delta["tool_calls"] = [
            {"index": call.index, **_tool_call(call)} for call in choice.delta.tool_calls
        ]
    return {
        "index": choice.index,
        "delta": delta,
        "logprobs": choice.logprobs,
        "finish_reason": choice.finish_reason,
    }


async def embeddings_bytes(
    vectors: NDArray[np.float32], encoding: Encoding, model: str, num_tokens: int | None
) -> bytes:
    """OpenAI's list of embeddings, written piece by piece so that other requests get their turn.

    Args:
        vectors: float32 ``(n, dim)``.
        encoding: numbers, or base64 of little-endian float32.
        model: who answered.
        num_tokens: of all texts; None if the backend does not say.
    """
    end = {
        "object": "list",
        "model": model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    if vectors.size <= NUMBERS_PER_TURN:  # as a rule
        return orjson.dumps({"data": _items(vectors, encoding), **end}, option=_NUMPY)
    pieces = [b'{"data":[']
    for first, rows in _turns(vectors):
        if first:
            await asyncio.sleep(0)
            pieces.append(b",")
        pieces.append(_listed(_items(rows, encoding, first)))
    return b"".join([*pieces, b"],", orjson.dumps(end)[1:]])


def _items(rows: NDArray[np.float32], encoding: Encoding, first: int = 0) -> list[dict[str, Any]]:
    """What OpenAI makes of vectors, of which the first has this number."""
    return [
        {"object": "embedding", "index": number, "embedding": row}
        for number, row in enumerate(_encoded(rows, encoding), first)
    ]


async def vectors_bytes(vectors: NDArray[np.float32], encoding: Encoding) -> bytes:
    """One list of numbers, or one base64 text, for each row."""
    pieces = [b"["]
    for first, rows in _turns(vectors):
        if first:
            await asyncio.sleep(0)
            pieces.append(b",")
        pieces.append(_listed(_encoded(rows, encoding)))
    return b"".join([*pieces, b"]"])


def vector_bytes(vector: NDArray[np.float32], encoding: Encoding) -> bytes:
    """One flat list of numbers, or one base64 text."""
    (encoded,) = _encoded(vector[None], encoding)
    return orjson.dumps(encoded, option=_NUMPY)


def _turns(vectors: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Rows that are written at once, and the number of the first of them."""
    rows_per_turn = max(1, NUMBERS_PER_TURN // max(1, vectors.shape[1]))
    for first in range(0, len(vectors), rows_per_turn):
        yield first, vectors[first : first + rows_per_turn]


def _encoded(rows: NDArray[np.float32], encoding: Encoding) -> list[Any]:
    """What stands for each row in JSON."""
    if encoding == "float":
        return list(rows)
    return [b2a_base64(row, newline=False).decode() for row in rows.astype("<f4", copy=False)]


def _listed(items: list[Any]) -> bytes:
    """A JSON list without its brackets."""
    return orjson.dumps(items, option=_NUMPY)[1:-1]
