"""Open streams of parts: one blocks, one awaits. What the bytes mean is `PartReader`'s business."""

from __future__ import annotations

import contextlib
import threading
from typing import Self

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import ChatPart, Provenance
from hybrid_infer.errors import HybridInferError
from hybrid_infer.remote.channel import OpenReply
from hybrid_infer.remote.channel_aio import AsyncOpenReply
from hybrid_infer.remote.parts import PartReader

TAIL_SECONDS = 1.0
DRAIN_SECONDS = 0.02


class _Pace:
    """How long a stream may be silent: until its first part, between two, and after its last."""

    def __init__(self, reader: PartReader, deadline: Deadline, gap_seconds: float) -> None:
        self.reader = reader
        self._deadline = deadline
        self._gap_seconds = gap_seconds

    def next_limit(self, current: Deadline) -> Deadline:
        """The limit of one wait for a part."""
        if not self.reader.has_started:
            return current  # set when the request was sent
        self._deadline.renew()  # the caller's own pause is not the remote's silence
        silence = TAIL_SECONDS if self.reader.is_complete else self._gap_seconds
        return self._deadline.at_most(silence)

    def drain_limit(self) -> Deadline:
        """The time in which the end of the body must come for the connection to be kept."""
        return self._deadline.at_most(DRAIN_SECONDS)

    def arrived(self) -> None:
        """A part has come."""
        self._deadline.renew()


class RemotePartStream:
    """The parts of one answer; see `PartStream`.

    Args:
        reply: accepted, its exchange limited to the time until the first part.
        reader: makes parts of its bytes.
        deadline: the call's.
        gap_seconds: longest silence between two parts.
    """

    def __init__(
        self, reply: OpenReply, reader: PartReader, deadline: Deadline, gap_seconds: float
    ) -> None:
        self._reply = reply
        self._reader = reader
        self._pace = _Pace(reader, deadline, gap_seconds)
        self._turn = threading.Lock()
        self._is_closed = False

    @property
    def id(self) -> str:
        """The answer's identifier."""
        return self._reader.id

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        return self._reader.created

    @property
    def provenance(self) -> Provenance:
        """Who answers; complete once the first part has arrived."""
        return self._reader.provenance

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatPart:
        with self._turn:
            if not self._reader.parts and not self._is_closed:
                self._pull()
            if self._is_closed:
                raise StopIteration
            if self._reader.parts:
                return self._reader.parts.popleft()
            failure = self._reader.failure
            self._finish(can_drain=failure is None)
        if failure is not None:
            raise failure
        raise StopIteration

    def close(self) -> None:
        """Stop the answer: the connection is closed, and a thread that waits for a part wakes up."""
        self._is_closed = True
        self._reply.close()

    def _pull(self) -> None:
        """Read until there is a part, a failure or the end."""
        reader, reply = self._reader, self._reply
        reply.exchange.deadline = self._pace.next_limit(reply.exchange.deadline)
        while not (reader.parts or reader.failure or reader.is_over or self._is_closed):
            try:
                data = reply.read_some()
            except HybridInferError as error:
                reader.break_off(error)
            else:
                if data is None:
                    reader.end()
                else:
                    reader.feed(data)
        if reader.parts:
            self._pace.arrived()

    def _finish(self, *, can_drain: bool) -> None:
        if can_drain:
            self._reply.exchange.deadline = self._pace.drain_limit()
            with contextlib.suppress(HybridInferError):  # the answer is whole without it
                self._reply.read_some()
        self.close()


class RemoteAsyncPartStream:
    """`RemotePartStream`, awaited; see `AsyncPartStream`."""

    def __init__(
        self, reply: AsyncOpenReply, reader: PartReader, deadline: Deadline, gap_seconds: float
    ) -> None:
        self._reply = reply
        self._reader = reader
        self._pace = _Pace(reader, deadline, gap_seconds)
        self._is_closed = False

    @property
    def id(self) -> str:
        """The answer's identifier."""
        return self._reader.id

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        return self._reader.created

    @property
    def provenance(self) -> Provenance:
        """Who answers; complete once the first part has arrived."""
        return self._reader.provenance

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatPart:
        if not self._reader.parts and not self._is_closed:
            await self._pull()
        if self._is_closed:
            raise StopAsyncIteration
        if self._reader.parts:
            return self._reader.parts.popleft()
        failure = self._reader.failure
        await self._finish(can_drain=failure is None)
        if failure is not None:
            raise failure
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop the answer: the connection is closed, and a task that waits for a part wakes up."""
        self._is_closed = True
        await self._reply.aclose()

    async def _pull(self) -> None:
        """Read until there is a part, a failure or the end; a cancelled read closes the stream."""
        reader, reply = self._reader, self._reply
        reply.exchange.deadline = self._pace.next_limit(reply.exchange.deadline)
        while not (reader.parts or reader.failure or reader.is_over or self._is_closed):
            try:
                data = await reply.read_some()
            except HybridInferError as error:
                reader.break_off(error)
            except BaseException:
                await self.aclose()
                raise
            else:
                if data is None:
                    reader.end()
                else:
                    reader.feed(data)
        if reader.parts:
            self._pace.arrived()

    async def _finish(self, *, can_drain: bool) -> None:
        if can_drain:
            self._reply.exchange.deadline = self._pace.drain_limit()
            with contextlib.suppress(HybridInferError):  # the answer is whole without it
                await self._reply.read_some()
        await self.aclose()
