"""What the server has seen: counts for metrics, and the last minutes for people."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.events import AttemptFinished, CallFailed, CallFinished, Event, FellBack

KEPT_CALLS = 4096
KEPT_FALLBACKS = 50
WINDOW_SECONDS = 60.0
OTHER = "other"

# Geometric, as text-embeddings-inference has its durations.
BUCKETS = tuple(round(0.001 * 2.0**power, 6) for power in range(18))


@dataclass(slots=True)
class Histogram:
    """Durations by bucket, their sum and their number."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total_seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = next((i for i, most in enumerate(BUCKETS) if seconds <= most), len(BUCKETS))
        self.counts[place] += 1
        self.total_seconds += seconds


@dataclass(frozen=True, slots=True)
class _Call:
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

    def __init__(self, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> None:
        self._clock, self._wall_clock = clock, wall_clock
        self._lock = threading.Lock()
        self._names: frozenset[str] = frozenset()
        self._calls: deque[_Call] = deque(maxlen=KEPT_CALLS)
        self._fallbacks: deque[dict[str, Any]] = deque(maxlen=KEPT_FALLBACKS)
        self.started_at = clock()
        self.last_success_at: float | None = None
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.durations: dict[tuple[str, str], Histogram] = {}
        self.fallbacks: Counter[tuple[str, str, str, str]] = Counter()
        self.attempts: Counter[tuple[str, str, str]] = Counter()

    def know(self, names: Iterable[str]) -> None:
        """The models that counts are kept for by name; all others are counted together."""
        self._names = frozenset(names)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            match event:
                case CallFinished():
                    self._finished(event)
                case CallFailed():
                    self.requests[self._label(event.model), "none", event.error] += 1
                case FellBack():
                    self._fell_back(event)
                case AttemptFinished():
                    outcome = event.attempt.reason or "ok"
                    label = self._label(event.model)
                    self.attempts[label, event.attempt.target, outcome] += 1

    def _finished(self, event: CallFinished) -> None:
        now, route = self._clock(), event.route
        label = self._label(event.model)
        self.last_success_at = now
        self.requests[label, route.backend, "ok"] += 1
        self.durations.setdefault((label, route.backend), Histogram()).add(route.latency_seconds)
        is_fallback = route.reason not in ("primary", "requested")
        self._calls.append(_Call(now, route.latency_seconds, route.backend, is_fallback))

    def _fell_back(self, event: FellBack) -> None:
        names = (event.from_target, event.to_target, str(event.reason))
        self.fallbacks[(self._label(event.model), *names)] += 1
        self._fallbacks.appendleft({
            "at": self._wall_clock(), "model": event.model,
            "from": event.from_target, "to": event.to_target, "reason": str(event.reason),
        })  # fmt: skip

    def _label(self, model: str) -> str:
        return model if model in self._names else OTHER

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

    def copied(self) -> Statistics:
        """The counts of one moment."""
        copy = Statistics(self._clock, self._wall_clock)
        with self._lock:
            copy.requests, copy.fallbacks = self.requests.copy(), self.fallbacks.copy()
            copy.attempts = self.attempts.copy()
            copy.durations = {
                key: Histogram(list(found.counts), found.total_seconds)
                for key, found in self.durations.items()
            }
        return copy
