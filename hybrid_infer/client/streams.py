"""The user's streams: chunks of one answer, whoever serves it and whoever has to go on with it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from hybrid_infer.client.drive import drive, drive_async
from hybrid_infer.client.stream_state import StreamState
from hybrid_infer.datatypes.chat import ChatChunk
from hybrid_infer.datatypes.replies import AsyncPartStream, PartStream
from hybrid_infer.datatypes.route import Route
from hybrid_infer.datatypes.timings import ChatTimings
from hybrid_infer.errors import HybridInferError

if TYPE_CHECKING:
    from hybrid_infer.client.continuing import Continuing


class ChatStream:
    """The chunks of one answer, as they arrive. Iterate it; close it, or use ``with``, to stop early.

    A plain text that breaks off is continued by the local copy of the same model, unless
    ``on_stream_error="raise"`` was asked for; `route` then changes.

    Attributes:
        route: who serves the stream.
        timings: how fast the answer came; known once it has ended.

    Raises:
        StreamInterruptedError: while iterating, if the answer breaks off and nobody can go on, or
            behind a read that was cancelled or interrupted; ``partial`` holds the text so far.
    """

    def __init__(
        self, parts: PartStream, route: Route, continuing: Continuing, owner: object = None
    ) -> None:
        self._owner = owner  # keeps connections and models alive while the stream is
        self._parts = parts
        self._state = StreamState(parts, route, continuing)

    @property
    def route(self) -> Route:
        """Who serves the stream."""
        return self._state.route

    @property
    def timings(self) -> ChatTimings:
        """How fast the answer came; known once it has ended."""
        return self._state.timings

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatChunk:
        while not self._state.is_closed():
            try:
                chunk = self._state.chunk(next(self._parts))
            except HybridInferError as error:
                self._go_on(error)
            except StopIteration:
                self.close()
                raise
            except BaseException:
                self._state.cut()
                self._parts.close()
                raise
            else:
                if chunk is not None:
                    return chunk
        self._state.refuse_if_cut()
        raise StopIteration

    def _go_on(self, error: HybridInferError) -> None:
        """Put another stream in the place of one that broke, or end with an error."""
        try:
            self._parts.close()
            if self._state.has_finished or self._state.is_closed():
                self._state.close()
                return
            call = self._state.next_call(error)
            try:
                decision = drive(call.flow, call.dispatch)
            except HybridInferError as failure:
                raise self._state.not_taken_over(call, failure, error) from error
        except HybridInferError:
            self._state.close()
            raise
        except BaseException:
            self._state.cut()
            raise
        self._parts = cast("PartStream", decision.result)
        self._state.taken_over(call, decision, error)
        if self._state.is_closed():  # by another thread, in the meantime
            self.close()

    def close(self) -> None:
        """Stop the answer: remotely the connection is closed, locally computing ends within a step."""
        self._state.close()
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

    def __init__(
        self, parts: AsyncPartStream, route: Route, continuing: Continuing, owner: object = None
    ) -> None:
        self._owner = owner  # keeps connections and models alive while the stream is
        self._parts = parts
        self._state = StreamState(parts, route, continuing)

    @property
    def route(self) -> Route:
        """Who serves the stream."""
        return self._state.route

    @property
    def timings(self) -> ChatTimings:
        """How fast the answer came; known once it has ended."""
        return self._state.timings

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatChunk:
        while not self._state.is_closed():
            try:
                chunk = self._state.chunk(await anext(self._parts))
            except HybridInferError as error:
                await self._go_on(error)
            except StopAsyncIteration:
                await self.aclose()
                raise
            except BaseException:
                self._state.cut()
                await self._parts.aclose()
                raise
            else:
                if chunk is not None:
                    return chunk
        self._state.refuse_if_cut()
        raise StopAsyncIteration

    async def _go_on(self, error: HybridInferError) -> None:
        """Put another stream in the place of one that broke, or end with an error."""
        try:
            await self._parts.aclose()
            if self._state.has_finished or self._state.is_closed():
                self._state.close()
                return
            call = self._state.next_call(error)
            try:
                decision = await drive_async(call.flow, call.dispatch)
            except HybridInferError as failure:
                raise self._state.not_taken_over(call, failure, error) from error
        except HybridInferError:
            self._state.close()
            raise
        except BaseException:
            self._state.cut()
            raise
        self._parts = cast("AsyncPartStream", decision.result)
        self._state.taken_over(call, decision, error)
        if self._state.is_closed():  # by another task, in the meantime
            await self.aclose()

    async def aclose(self) -> None:
        """Stop the answer: remotely the connection is closed, locally computing ends within a step."""
        self._state.close()
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
