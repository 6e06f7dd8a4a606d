"""Priming: a stream's first part decides whether its target is committed to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from hybrid_infer.datatypes.replies import AsyncPartStream, ChatPart, PartStream, Provenance
from hybrid_infer.errors import RemoteProtocolError


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
