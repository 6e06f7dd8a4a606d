"""The caller's end of an answer in the making: a blocking stream, an awaited one, or the whole."""

from __future__ import annotations

import queue
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator

from hybrid_infer.datatypes.chat import ChatChoice, ChatMessage, ChatUsage, ChunkChoice
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import ChatPart, ChatReply, Provenance
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.datatypes.timings import ChatTimings, timings_of
from hybrid_infer.errors import HybridInferError
from hybrid_infer.local.generation.choices import Answering, submit_all
from hybrid_infer.local.generation.engine import ChatEngine
from hybrid_infer.local.generation.job import End
from hybrid_infer.local.generation.logprobs import Entry, content_of
from hybrid_infer.local.supervision import ProcessBound
from hybrid_infer.local.waiting import Arrivals, too_late


class LocalStream(ProcessBound):
    """A `PartStream` of local parts, which come only in the process that asked for them.

    Args:
        engine: where to submit.
        request: what to answer.
        deadline: bounds every wait; renewed by the engine with every token.
        wants_usage: whether the stream ends with a usage part.
    """

    def __init__(
        self,
        engine: ChatEngine,
        request: ChatRequest,
        deadline: Deadline,
        *,
        wants_usage: bool,
    ) -> None:
        super().__init__()
        self._arrived: queue.SimpleQueue[ChatPart | End] = queue.SimpleQueue()
        self._wants_usage = wants_usage
        self._is_over = False
        self._job: Answering = submit_all(engine, request, deadline, self._arrived.put)
        weakref.finalize(self, self._job.abandon)

    @property
    def id(self) -> str:
        """The answer's identifier."""
        return self._job.id

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        return self._job.created

    @property
    def provenance(self) -> Provenance:
        """The loaded weights."""
        return self._job.provenance

    def __iter__(self) -> Iterator[ChatPart]:
        return self

    def __next__(self) -> ChatPart:
        while True:
            if self._is_over:
                raise StopIteration
            item = self._next_item()
            if isinstance(item, End):
                self._is_over = True
                if item.error is not None:
                    raise item.error
            elif item.choices or self._wants_usage:
                return item

    def _next_item(self) -> ChatPart | End:
        deadline = self._job.deadline
        try:
            self.refuse_if_inherited()
            while True:
                try:
                    return self._arrived.get(timeout=deadline.left())
                except queue.Empty:
                    if deadline.expired():
                        raise too_late(deadline) from None
        except HybridInferError:
            self.close()
            raise

    def close(self) -> None:
        """Stop computing within one step."""
        self._is_over = True
        self._job.abandon()
        # Whoever still waits in another thread is woken.
        self._arrived.put(End())


class AsyncLocalStream(ProcessBound):
    """`LocalStream`, awaited on any loop.

    Args:
        engine: where to submit.
        request: what to answer.
        deadline: bounds every wait; renewed by the engine with every token.
        wants_usage: whether the stream ends with a usage part.
    """

    def __init__(
        self,
        engine: ChatEngine,
        request: ChatRequest,
        deadline: Deadline,
        *,
        wants_usage: bool,
    ) -> None:
        super().__init__()
        self._arrived: Arrivals[ChatPart | End] = Arrivals()
        self._wants_usage = wants_usage
        self._is_over = False
        self._job: Answering = submit_all(engine, request, deadline, self._arrived.put)
        weakref.finalize(self, self._job.abandon)

    @property
    def id(self) -> str:
        """The answer's identifier."""
        return self._job.id

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        return self._job.created

    @property
    def provenance(self) -> Provenance:
        """The loaded weights."""
        return self._job.provenance

    def __aiter__(self) -> AsyncIterator[ChatPart]:
        return self

    async def __anext__(self) -> ChatPart:
        while True:
            if self._is_over:
                raise StopAsyncIteration
            item = await self._next_item()
            if isinstance(item, End):
                self._is_over = True
                if item.error is not None:
                    raise item.error
            elif item.choices or self._wants_usage:
                return item

    async def _next_item(self) -> ChatPart | End:
        try:
            self.refuse_if_inherited()
            return await self._arrived.get(self._job.deadline)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop computing within one step."""
        self._is_over = True
        self._job.abandon()
        # Whoever still waits in another task is woken.
        self._arrived.put(End())


class _Answer:
    """One answer, put together from its parts."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.entries: list[Entry] = []
        self.finish_reason = "stop"

    def add(self, choice: ChunkChoice) -> None:
        self.text.append(choice.delta.content or "")
        self.entries += (choice.logprobs or {}).get("content", [])
        self.finish_reason = choice.finish_reason or self.finish_reason

    def choice(self, index: int) -> ChatChoice:
        message = ChatMessage("assistant", "".join(self.text))
        return ChatChoice(index, message, self.finish_reason, content_of(self.entries))


class _Collected:
    """All answers of a request."""

    def __init__(self) -> None:
        self._answers: defaultdict[int, _Answer] = defaultdict(_Answer)
        self._usage = ChatUsage(None, None)
        self._timings: list[ChatTimings] = []

    def add(self, part: ChatPart) -> None:
        self._usage = part.usage or self._usage
        if part.timings is not None:
            self._timings.append(part.timings)
        for choice in part.choices:
            self._answers[choice.index].add(choice)

    def reply(self, stream: LocalStream | AsyncLocalStream) -> ChatReply:
        return ChatReply(
            stream.id,
            stream.created,
            tuple(answer.choice(index) for index, answer in sorted(self._answers.items())),
            self._usage,
            stream.provenance,
            timings_of(self._timings),
        )


def collect(stream: LocalStream) -> ChatReply:
    """The whole answer."""
    collected = _Collected()
    try:
        for part in stream:
            collected.add(part)
    finally:
        stream.close()
    return collected.reply(stream)


async def collect_async(stream: AsyncLocalStream) -> ChatReply:
    """The whole answer."""
    collected = _Collected()
    try:
        async for part in stream:
            collected.add(part)
    finally:
        await stream.aclose()
    return collected.reply(stream)
