"""From the bytes of a streamed answer to its parts, and whether it really ended. Pure: no I/O."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import Any

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.replies import ChatPart, Provenance
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.datatypes.timings import TokenTimer
from hybrid_infer.errors import HybridInferError, StreamInterruptedError
from hybrid_infer.remote.completions import (
    chat_part,
    chat_reply,
    identity_of,
    malformed,
    part_of,
    provenance_of,
)
from hybrid_infer.remote.responses import Asked, parsed, refusal_in_stream
from hybrid_infer.remote.sse import ServerSentEvent, SseDecoder

DONE = "[DONE]"


class PartReader:
    """Collects the parts of one streamed answer.

    Parts that came before a failure are given out before it is. A server that ignores
    ``stream`` and answers with plain JSON makes one part.

    Args:
        request: what was asked.
        model_id: the name by which the remote knows the model.
        asked: for messages.
        clock: a monotonic clock in seconds.

    Attributes:
        parts: those not given out yet, oldest first.
        failure: what broke the answer; to be raised once `parts` is empty.
        is_over: the answer is whole; nothing more will come.
        id, created, provenance: complete once there has been a part.
    """

    def __init__(
        self,
        request: ChatRequest,
        model_id: str,
        asked: Asked,
        clock: Clock = time.monotonic,
    ) -> None:
        self._timer = TokenTimer(clock)
        self.parts: deque[ChatPart] = deque()
        self.failure: HybridInferError | None = None
        self.is_over = False
        self.id, self.created = identity_of({})
        self.provenance = Provenance(request.spec.repo, None, verified=False)
        self._request = request
        self._model_id = model_id
        self._asked = asked
        self._decoder: SseDecoder | None = None
        self._document = bytearray()
        self._is_document: bool | None = None
        self._text: list[str] = []
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        asked_for = request.passthrough.get("n")
        self._num_choices = asked_for if isinstance(asked_for, int) else 1

    @property
    def has_started(self) -> bool:
        """Whether there has been a part."""
        return bool(self._seen)

    @property
    def is_complete(self) -> bool:
        """Whether every choice has its finish_reason."""
        return self._seen <= self._finished and len(self._finished) >= self._num_choices

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._is_document is None:
            start = (bytes(self._document) + data).lstrip()[:1]
            if not start:
                self._document += data
                return
            self._is_document = start in (b"{", b"[")
            data = bytes(self._document) + data
            self._document.clear()
        try:
            if self._is_document:
                self._document += data
            else:
                self._feed_events(data)
        except HybridInferError as error:
            self.break_off(error)

    def _feed_events(self, data: bytes) -> None:
        self._decoder = self._decoder or SseDecoder()
        events: list[ServerSentEvent] | None
        try:
            events = self._decoder.feed(data)
        except ValueError:
            events = None
        if events is None:
            raise malformed(self._asked, "an event is too large")
        for event in events:
            if event.data.strip() == DONE:
                self.end()
                return
            self._take(event)

    def end(self) -> None:
        """The server says, by ``[DONE]`` or by the end of its reply, that this was all."""
        try:
            if self._is_document:
                self._take_document()
            if not self.has_started:
                raise malformed(self._asked, "the stream ended without an event")
        except HybridInferError as error:
            self.break_off(error)
            return
        if self.is_complete:
            self.is_over = True
        else:
            self.failure = self._interrupted("the stream ended without a finish_reason")

    def break_off(self, error: HybridInferError) -> None:
        """The answer was cut short by `error`."""
        if not self.has_started:
            self.failure = error
        elif self.is_complete and error.status is None:
            self.is_over = True  # nothing but the connection was missing
        else:
            self.failure = self._interrupted(f"the stream broke: {error.message}")
            self.failure.retry_after = error.retry_after
            self.failure.__cause__ = error

    def _interrupted(self, message: str) -> StreamInterruptedError:
        return StreamInterruptedError(message, partial="".join(self._text))

    def _take(self, event: ServerSentEvent) -> None:
        is_json, document = parsed(event.data.encode())
        if event.event == "error":
            raise refusal_in_stream(document if is_json else event.data, self._asked)
        if not isinstance(document, dict):
            raise malformed(self._asked, "an event is not a JSON object")
        if document.get("error"):
            raise refusal_in_stream(document, self._asked)
        part = chat_part(document, self._asked)
        if part.choices or part.usage:
            self._add(part, document)

    def _take_document(self) -> None:
        is_json, document = parsed(bytes(self._document))
        if not is_json:
            raise malformed(self._asked, "the answer is not JSON")
        reply = chat_reply(document, self._request.spec, self._model_id, self._asked)
        self._add(part_of(reply), document)

    def _add(self, part: ChatPart, document: dict[str, Any]) -> None:
        if not self.has_started:
            self.id, self.created = identity_of(document)
            self.provenance = provenance_of(document, self._request.spec, self._model_id)
        for choice in part.choices:
            self._seen.add(choice.index)
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
            if choice.index == 0 and choice.delta.content:
                self._text.append(choice.delta.content)
                self._timer.tick()
            if choice.index == 0 and choice.finish_reason is not None and not self._is_document:
                part = replace(part, timings=self._timer.timings)
        self.parts.append(part)
