"""How fast an answer came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid_infer.datatypes.deadline import Clock


@dataclass(frozen=True, slots=True)
class ChatTimings:
    """How fast an answer came, measured where it was received: no attempt at another target counts.

    Attributes:
        first_token_seconds: from when the target was asked to the first token, queueing and the
            prompt's own computation included, loading a model not; None where it is not known: a
            remote's answer that came whole.
        seconds_per_token: mean time between two tokens, or, at a remote, two chunks with text;
            None where there were fewer than two.
    """

    first_token_seconds: float | None = None
    seconds_per_token: float | None = None


UNTIMED = ChatTimings()


class TokenTimer:
    """Times the tokens of one answer; it starts when it is made.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._started_at = self._first_at = self._last_at = clock()
        self._num_tokens = 0

    def tick(self) -> None:
        """A token has come."""
        self._last_at = self._clock()
        if self._num_tokens == 0:
            self._first_at = self._last_at
        self._num_tokens += 1

    @property
    def timings(self) -> ChatTimings:
        """The figures so far."""
        gaps = self._num_tokens - 1
        return ChatTimings(
            self._first_at - self._started_at if self._num_tokens else None,
            (self._last_at - self._first_at) / gaps if gaps > 0 else None,
        )


def timings_of(answers: Sequence[ChatTimings]) -> ChatTimings:
    """The timings of a call with several answers: the earliest first token, the mean pace."""
    firsts = [a.first_token_seconds for a in answers if a.first_token_seconds is not None]
    paces = [a.seconds_per_token for a in answers if a.seconds_per_token is not None]
    return ChatTimings(min(firsts, default=None), sum(paces) / len(paces) if paces else None)
