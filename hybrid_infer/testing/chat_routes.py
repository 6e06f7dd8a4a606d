"""What a healthy server answers to chat requests, whole and as a stream, in OpenAI's shape."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.testing.answered import (
    Answer,
    failure,
    json_answer,
    openai_error,
    stream_answer,
)
from hybrid_infer.testing.answers import Answers, ChatAnswer, ChatEnd
from hybrid_infer.testing.sse import Event
from hybrid_infer.testing.workers import Workers

DONE = Event(data="[DONE]")


class _Pieces:
    """A chat answer's iterator, pulled by workers one item at a time; may be closed meanwhile."""

    def __init__(self, items: Iterator[str | ChatEnd], workers: Workers) -> None:
        self._items = items
        self._workers = workers
        self._lock = threading.Lock()

    async def next(self) -> str | ChatEnd:
        """The next piece that is not empty, or the end."""
        item = await self._workers.run(self._pull)
        if item is None:
            raise TypeError("the chat answer ended without a ChatEnd")
        return item

    async def rest(self) -> tuple[list[str], ChatEnd]:
        """Every piece that is left, and the end."""
        *pieces, end = await self._workers.run(self._pull_rest)
        if not isinstance(end, ChatEnd):
            raise TypeError("the chat answer ended without a ChatEnd")
        return [piece for piece in pieces if isinstance(piece, str)], end

    def close(self) -> None:
        """Stop the answer; a generator's ``finally`` runs on a worker."""
        self._workers.submit(self._close)

    def _pull(self) -> str | ChatEnd | None:
        with self._lock:
            return next((item for item in self._items if item != ""), None)

    def _pull_rest(self) -> list[str | ChatEnd | None]:
        with self._lock:
            return [*self._items] or [None]

    def _close(self) -> None:
        close = getattr(self._items, "close", None)
        if close is not None:
            with self._lock:
                close()


async def chat(
    model: str | None, body: Mapping[str, Any], answers: Answers, workers: Workers
) -> Answer:
    """OpenAI's ``/v1/chat/completions``.

    Args:
        model: the model that the path names; None: the body names it.
        body: the request's.
        answers: what is said.
        workers: where it is computed.
    """
    name = model or body.get("model")
    messages = body.get("messages")
    if not isinstance(name, str) or not name:
        return openai_error("you must provide a model parameter", code="missing", param="model")
    if not isinstance(messages, list) or not messages:
        return openai_error(
            "'messages' must be a list that is not empty", code="missing", param="messages"
        )
    if body.get("n") not in (None, 1):
        return openai_error("'n' must be 1 here", code="invalid_value", param="n", status=422)
    bare = name.partition(":")[0]
    pieces: _Pieces | None = None
    try:
        said = await workers.run(answers.chat, bare, body)
        items = said.items() if isinstance(said, ChatAnswer) else said
        pieces = _Pieces(items, workers)
        first = await pieces.next()
    except InvalidRequestError as error:
        return _refused(name, error)
    except BaseException:
        if pieces is not None:
            pieces.close()
        raise
    identity = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": bare}
    if body.get("stream") is True:
        stream_options = body.get("stream_options")
        with_usage = isinstance(stream_options, dict) and stream_options.get("include_usage")
        events = _events(pieces, first, identity, with_usage=bool(with_usage))
        return stream_answer(events, pieces.close)
    return await _whole(pieces, first, identity)


def _refused(model: str, error: InvalidRequestError) -> Answer:
    if error.argument == "model":
        problem = (
            f"The requested model '{model}' is not supported by any provider you have enabled."
        )
        return openai_error(problem, code="model_not_supported", param="model")
    if isinstance(error, ContextLengthError):
        return openai_error(error.message, code="context_length_exceeded", param="messages")
    return openai_error(error.message, code="invalid_value", param=error.argument, status=422)


async def _whole(pieces: _Pieces, first: str | ChatEnd, identity: Mapping[str, Any]) -> Answer:
    try:
        rest, end = ([], first) if isinstance(first, ChatEnd) else await pieces.rest()
    finally:
        pieces.close()
    said = rest if isinstance(first, ChatEnd) else [first, *rest]
    message = {"role": "assistant", "content": "".join(said)}
    choice = {"index": 0, "message": message, "finish_reason": end.finish_reason}
    return json_answer(
        {**identity, "object": "chat.completion", "choices": [choice], "usage": _usage(end)}
    )


async def _events(
    pieces: _Pieces, first: str | ChatEnd, identity: Mapping[str, Any], *, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    item = first
    while not isinstance(item, ChatEnd):
        yield Event(content=item).encode(identity)
        try:
            item = await pieces.next()
        except Exception as error:  # noqa: BLE001 - the stream must tell of any failure of any answers
            yield Event(error=failure(error)).encode(identity)
            return
    yield Event(finish_reason=item.finish_reason).encode(identity)
    if with_usage:
        usage = {"object": "chat.completion.chunk", "choices": [], "usage": _usage(item)}
        yield Event(json={**identity, **usage}).encode(identity)
    yield DONE.encode(identity)


def _usage(end: ChatEnd) -> dict[str, int]:
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }
