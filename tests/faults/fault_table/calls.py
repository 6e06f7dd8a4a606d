"""The ledger of calls: each has a number, and must end exactly once and in time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

SLACK_SECONDS = 0.25


@dataclass(slots=True)
class OpenCall:
    """One call under way; `end` is called at each end that it shows."""

    number: int
    deadline_seconds: float
    started_at: float = field(default_factory=time.monotonic)
    num_endings: int = 0
    ended_at: float = 0.0

    def end(self) -> None:
        """A result, an error, a stream's end: each counts."""
        self.num_endings += 1
        self.ended_at = time.monotonic()

    @property
    def is_late(self) -> bool:
        """Whether it ended after its deadline."""
        return self.ended_at - self.started_at > self.deadline_seconds + SLACK_SECONDS


class CallLedger:
    """Every call of one test."""

    def __init__(self) -> None:
        self._calls: list[OpenCall] = []

    def begin(self, deadline_seconds: float) -> OpenCall:
        """Number a call that starts now."""
        self._calls.append(OpenCall(len(self._calls), deadline_seconds))
        return self._calls[-1]

    @property
    def num_calls(self) -> int:
        """How many began."""
        return len(self._calls)

    @property
    def num_lost(self) -> int:
        """How many never ended with a result or one of this library's errors."""
        return sum(call.num_endings == 0 for call in self._calls)

    @property
    def num_duplicated(self) -> int:
        """How many ended more than once."""
        return sum(call.num_endings > 1 for call in self._calls)

    @property
    def num_late(self) -> int:
        """How many ended after their deadline."""
        return sum(call.is_late for call in self._calls)
