"""What the server has seen in the last minutes, for people; what it has counted is in `metrics`."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, NamedTuple

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.events import CallFinished, Event, FellBack

KEPT_CALLS = 4096
KEPT_FALLBACKS = 50
WINDOW_SECONDS = 60.0


class _Call(NamedTuple):
    at: float
    seconds: float
    backend: str
    is_fallback: bool


class Statistics:
    """An observer of a client that remembers. Any thread may report, any may read.

    Args:
        clock: monotonic seconds.
        wall_clock: seconds since the epoch, for people.
    """

    kinds = frozenset({CallFinished, FellBack})

    def __init__(self, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> None:
        self._clock, self._wall_clock = clock, wall_clock
        self._lock = threading.Lock()
        self._calls: deque[_Call] = deque(maxlen=KEPT_CALLS)
        self._fallbacks: deque[dict[str, Any]] = deque(maxlen=KEPT_FALLBACKS)
        self.started_at = clock()
        self.last_success_at: float | None = None

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            if isinstance(event, CallFinished):
                self._finished(event)
            elif isinstance(event, FellBack):
                self._fell_back(event)

    def _finished(self, event: CallFinished) -> None:
        now, route = self._clock(), event.route
        self.last_success_at = now
        fell_back = route.reason.is_fallback
        self._calls.append(_Call(now, route.latency_seconds, route.backend, fell_back))

    def _fell_back(self, event: FellBack) -> None:
        self._fallbacks.appendleft({
            "at": self._wall_clock(), "model": event.model,
            "from": event.from_target, "to": event.to_target, "reason": str(event.reason),
        })  # fmt: skip

    def recent(self) -> dict[str, Any]:
        """The last minute in numbers, and the last fallbacks."""
        with self._lock:
            since = self._clock() - WINDOW_SECONDS
            calls = [call for call in self._calls if call.at >= since]
            fallbacks = list(self._fallbacks)
        seconds = sorted(call.seconds for call in calls)
        window = min(WINDOW_SECONDS, max(1.0, self._clock() - self.started_at))
        return {
            "calls_per_second": len(calls) / window,
            "latency_p50_seconds": seconds[len(seconds) // 2] if seconds else None,
            "latency_p99_seconds": seconds[len(seconds) * 99 // 100] if seconds else None,
            "remote_calls": sum(call.backend == "remote" for call in calls),
            "local_calls": sum(call.backend == "local" for call in calls),
            "fallback_calls": sum(call.is_fallback for call in calls),
            "fallbacks": fallbacks,
        }
