"""Streams: priming (a first part decides whether a target is committed to) and the user's objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

from hybrid_infer.datatypes.chat import ChatChunk
from hybrid_infer.datatypes.replies import AsyncPartStream, ChatPart, PartStream, Provenance
from hybrid_infer.datatypes.route import Route
from hybrid_infer.errors import HybridInferError, RemoteProtocolError, StreamInterruptedError


class Primed:
    """A `PartStream` whose first part has already arrived."""

    def __init__(self, stream: PartStream, first: ChatPart) -> None:
        self._stream = stream
        self._first: ChatPart | None = first
        self.id, self.created = stream.id, stream.created

    @property
    def provenance(self) -> Provenance:
        """Who answers; complete once the first part is there."""
        return self._stream.provenance

    def __iter__(self) -> Iterator[ChatPart]:
        return self

    def __next__(self) -> ChatPart:
        first, self._first = self._first, None
        return next(self._stream) if first is None else first

    def close(self) -> None:
        """Stop and release the stream."""
        self._stream.close()


class AsyncPrimed:
    """`Primed`, awaited."""

    def __init__(self, stream: AsyncPartStream, first: ChatPart) -> None:
        self._stream = stream
        self._first: ChatPart | None = first
        self.id, self.created = stream.id, stream.created

    @property
    def provenance(self) -> Provenance:
        """Who answers; complete once the first part is there."""
        return self._stream.provenance

    def __aiter__(self) -> AsyncIterator[ChatPart]:
        return self

    async def __anext__(self) -> ChatPart:
        first, self._first = self._first, None
        return await anext(self._stream) if first is None else first

    async def aclose(self) -> None:
        """Stop and release the stream."""
        await self._stream.aclose()


def primed(stream: PartStream) -> Primed:
    """Pull the first part; a failure before it is an ordinary failed attempt."""
    try:
        return Primed(stream, next(stream))
    except StopIteration:
        stream.close()
        raise RemoteProtocolError("the stream ended before its first event") from None
    except BaseException:
        stream.close()
        raise


async def primed_async(stream: AsyncPartStream) -> AsyncPrimed:
    """Pull the first part; a failure before it is an ordinary failed attempt."""
    try:
        return AsyncPrimed(stream, await anext(stream))
    except StopAsyncIteration:
        await stream.aclose()
        raise RemoteProtocolError("the stream ended before its first event") from None
    except BaseException:
        await stream.aclose()
        raise


class _StreamState:
    """What both kinds of stream keep: the route, the text so far, and how parts become chunks."""

    def __init__(self, parts: Any, route: Route) -> None:
        self.id: str = parts.id
        self.created: int = parts.created
        self.route = route
        self._text: list[str] = []
        self.is_closed = False

    def chunk(self, part: ChatPart) -> ChatChunk:
        for choice in part.choices:
            if choice.index == 0 and choice.delta.content:
                self._text.append(choice.delta.content)
        return ChatChunk(
            self.id, self.created, self.route.model, part.choices, part.usage, self.route
        )

    def interrupted(self, error: HybridInferError) -> StreamInterruptedError:
        """The one error of a stream that broke after its first chunk."""
        message = error.message
        if not isinstance(error, StreamInterruptedError):
            message = f"the stream broke after its first chunk: {message}"
        interrupted = StreamInterruptedError(message, partial="".join(self._text))
        interrupted.attempts = self.route.attempts
        interrupted.retry_after = error.retry_after
        interrupted.__cause__ = error
        return interrupted


class ChatStream:
    """The chunks of one answer, as they arrive. Iterate it; close it, or use ``with``, to stop early.

    Attributes:
        route: who serves the stream.

    Raises:
        StreamInterruptedError: while iterating, if the answer breaks off; ``partial`` holds the
            text so far.
    """

    def __init__(self, parts: PartStream, route: Route, owner: object = None) -> None:
        self._owner = owner  # keeps connections and models alive while the stream is
        self._parts = parts
        self._state = _StreamState(parts, route)

    @property
    def route(self) -> Route:
        """Who serves the stream."""
        return self._state.route

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatChunk:
        if self._state.is_closed:
            raise StopIteration
        try:
            return self._state.chunk(next(self._parts))
        except HybridInferError as error:
            self.close()
            raise self._state.interrupted(error) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the answer: remotely the connection is closed, locally computing ends within a step."""
        self._state.is_closed = True
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncChatStream:
    """`ChatStream`, awaited: ``async for`` it, or ``async with`` it to stop early."""

    def __init__(self, parts: AsyncPartStream, route: Route, owner: object = None) -> None:
        self._owner = owner  # keeps connections and models alive while the stream is
        self._parts = parts
        self._state = _StreamState(parts, route)

    @property
    def route(self) -> Route:
        """Who serves the stream."""
        return self._state.route

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatChunk:
        if self._state.is_closed:
            raise StopAsyncIteration
        try:
            return self._state.chunk(await anext(self._parts))
        except HybridInferError as error:
            await self.aclose()
            raise self._state.interrupted(error) from error
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop the answer: remotely the connection is closed, locally computing ends within a step."""
        self._state.is_closed = True
        await self._parts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
