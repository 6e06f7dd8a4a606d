"""What a user's stream keeps, blocking or awaited: its route, its text so far, how it ends."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from hybrid_infer.client.continuing import message_of_break
from hybrid_infer.datatypes.chat import ChatChunk, ChatUsage, ChunkChoice
from hybrid_infer.datatypes.replies import AsyncPartStream, ChatPart, PartStream
from hybrid_infer.datatypes.route import Route
from hybrid_infer.datatypes.timings import ChatTimings, timings_of
from hybrid_infer.errors import HybridInferError, StreamInterruptedError
from hybrid_infer.events import Answered
from hybrid_infer.routing.state import Decision

if TYPE_CHECKING:
    from hybrid_infer.client.calls import PlannedCall
    from hybrid_infer.client.continuing import Continuing


class StreamState:
    """What both kinds of stream keep: the route, the text so far, and how parts become chunks."""

    def __init__(
        self, parts: PartStream | AsyncPartStream, route: Route, continuing: Continuing
    ) -> None:
        self.id: str = parts.id
        self.created: int = parts.created
        self.route = route
        self._is_closed = False
        self._is_cut = False
        self._continuing = continuing
        self._text: list[str] = []
        self._announced: set[int] = set()  # choices whose role was named
        self._finished: set[int] = set()
        self._has_tools = False
        self._timings: list[ChatTimings] = []
        self._finish_reasons: list[str] = []
        self._usage = ChatUsage(None, None)
        self._error: str | None = None
        self._end_report = Lock()  # taken by the first to close, who reports the end

    def is_closed(self) -> bool:
        """Whether the caller, or the end, has closed the stream; from any thread."""
        return self._is_closed

    @property
    def has_finished(self) -> bool:
        """Whether every answer has its end."""
        return len(self._finished) >= self._continuing.num_answers

    @property
    def timings(self) -> ChatTimings:
        """How fast the answer came; known at its end."""
        return timings_of(self._timings)

    def cut(self) -> None:
        """A read was interrupted or cancelled, which ends the stream: what follows is lost."""
        self.close()
        self._is_cut = not self.has_finished

    def refuse_if_cut(self) -> None:
        """A stream that was cut has not come to its end.

        Raises:
            StreamInterruptedError: it was, and nobody has closed it since.
        """
        if self._is_cut:
            raise self.interrupted(
                StreamInterruptedError("a read of the stream was cancelled, which closed it"),
                "its rest is lost",
            )

    def close(self) -> None:
        """Nothing follows; any number of times, from any thread."""
        self._is_closed, self._is_cut = True, False
        self._continuing.end()
        if self._end_report.acquire(blocking=False):
            usage, reasons = self._usage, tuple(self._finish_reasons)
            answered = Answered(usage.prompt_tokens, usage.completion_tokens, reasons)
            self._continuing.report_end(
                self.route, answered, self._error, is_whole=self.has_finished
            )

    def chunk(self, part: ChatPart) -> ChatChunk | None:
        """What the caller gets of a part; None for a second announcement of who speaks."""
        if part.choices and all(self._is_known(choice) for choice in part.choices):
            return None
        if part.timings is not None:
            self._timings.append(part.timings)
        choices = tuple(map(self._noted, part.choices))
        self._usage = part.usage or self._usage
        return ChatChunk(self.id, self.created, self.route.model, choices, part.usage, self.route)

    def _noted(self, choice: ChunkChoice) -> ChunkChoice:
        """Remember what a choice adds; a role that was named is not named again, as some servers do."""
        delta = choice.delta
        self._has_tools |= bool(delta.tool_calls)
        if choice.index == 0 and delta.content:
            self._text.append(delta.content)
        if choice.finish_reason is not None:
            self._finished.add(choice.index)
            self._finish_reasons.append(choice.finish_reason)
        if delta.role is None:
            return choice
        if choice.index in self._announced:
            return replace(choice, delta=replace(delta, role=None))
        self._announced.add(choice.index)
        return choice

    def _is_known(self, choice: ChunkChoice) -> bool:
        """Whether a choice says nothing but who speaks, once more."""
        delta = choice.delta
        has_news = delta.content or delta.tool_calls or choice.finish_reason
        return delta.role is not None and not has_news and choice.index in self._announced

    def next_call(self, error: HybridInferError) -> PlannedCall:
        """The call that goes on where the stream broke.

        Raises:
            StreamInterruptedError: nobody can.
        """
        call = self._continuing.next_call(error, "".join(self._text), has_tools=self._has_tools)
        if isinstance(call, str):
            raise self.interrupted(error, call)
        return call

    def taken_over(self, call: PlannedCall, decision: Decision, error: HybridInferError) -> None:
        """Somebody else serves the stream from here on."""
        self.route = self._continuing.take_over(call, decision, error)

    def not_taken_over(
        self, call: PlannedCall, failure: HybridInferError, error: HybridInferError
    ) -> StreamInterruptedError:
        """The error of a stream with which nobody could go on, though somebody tried."""
        self._continuing.fail(call, failure)
        return self.interrupted(error, failure.message)

    def interrupted(self, error: HybridInferError, why: str) -> StreamInterruptedError:
        """The one error of a stream that broke after its first chunk, and was not continued."""
        interrupted = StreamInterruptedError(message_of_break(error), partial="".join(self._text))
        self._error = type(interrupted).__name__
        interrupted.add_note(f"not continued: {why}")
        interrupted.attempts = self._continuing.attempts
        interrupted.retry_after = error.retry_after
        interrupted.__cause__ = error
        return interrupted
