"""Pacing: requests to one account spread over time *before* its limit refuses them.

The schedule is the generic cell rate algorithm (ITU-T I.371): one theoretical arrival time, moved
on by each request, and a tolerance for short bursts. Its interval is what the user set
(``requests_per_minute``), or what the remote's own headers leave, or what a remote that has just
been limiting calls can be trusted with. Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from hybrid_infer.datatypes.limits import RateLimitState

BURST_SECONDS = 1.0
SCARCE_SHARE = 0.25  # of a window: with less than this left, the rest is spread
SCARCE_REQUESTS = 10  # the same where the window's size is not known
MAX_WINDOW_SECONDS = 3600.0
SLOW_START_SECONDS = 6.0  # 1, 2, 4 … 32 requests a second, then freely
ROUNDING_SECONDS = 1e-6
LOOK_AGAIN_SECONDS = 0.05  # when every slot is taken; one call's end cannot be foreseen


@dataclass(frozen=True, slots=True)
class Pace:
    """What the user set for one remote; None: no limit."""

    requests_per_minute: float | None = None
    max_concurrency: int | None = None


class Pacer:
    """The schedule of one account. Safe to share between threads.

    Args:
        pace: what the user set.
    """

    def __init__(self, pace: Pace) -> None:
        per_minute = pace.requests_per_minute
        self._set_interval = 60.0 / per_minute if per_minute else 0.0
        self._max_concurrency = pace.max_concurrency
        self._in_flight = 0
        self._ended: deque[None] = deque()
        self._next_at = 0.0  # the theoretical arrival time
        self._learned_interval = 0.0
        self._learned_until = 0.0
        self._closed_until = 0.0
        self._resumes_at: float | None = None
        self._lock = Lock()

    def wait_seconds(self, now: float) -> float:
        """How long a request sent now would be too early; 0 if it may go."""
        with self._lock:
            return self._wait_seconds(now)

    def _wait_seconds(self, now: float) -> float:
        if self._max_concurrency is not None:
            while self._ended:
                self._ended.popleft()
                self._in_flight -= 1
            if self._in_flight >= self._max_concurrency:
                return LOOK_AGAIN_SECONDS
        wait = max(0.0, self._closed_until - now)
        interval = self._interval(now)
        if interval > 0.0:
            tolerance = max(0.0, BURST_SECONDS - interval) if self._is_set_pace(interval) else 0.0
            ahead = self._next_at - tolerance - now
            wait = max(wait, ahead if ahead > ROUNDING_SECONDS else 0.0)
        return wait

    def _is_set_pace(self, interval: float) -> bool:
        """Whether the user's own pace rules, which may be used in short bursts."""
        return interval == self._set_interval

    def _interval(self, now: float) -> float:
        interval = self._set_interval
        if now < self._learned_until:
            interval = max(interval, self._learned_interval)
        if self._resumes_at is not None and now >= self._resumes_at:
            since = now - self._resumes_at
            if since >= SLOW_START_SECONDS:
                self._resumes_at = None
            else:
                interval = max(interval, 0.5 ** int(since))
        return interval

    def start(self, now: float) -> bool:
        """Take a slot for a request sent now; False if it would be too early after all."""
        with self._lock:
            if self._wait_seconds(now) > 0.0:
                return False
            interval = self._interval(now)
            self._next_at = max(self._next_at, now) + interval if interval else now
            if self._max_concurrency is not None:
                self._in_flight += 1
            return True

    def finish(self) -> None:
        """Give a slot back: the request has ended.

        Takes no lock: the end of a stream that was dropped comes from the garbage collector, in
        the middle of anything.
        """
        if self._max_concurrency is not None:
            self._ended.append(None)

    def learn(self, state: RateLimitState, now: float) -> None:
        """Take in an answer's rate-limit headers.

        Args:
            state: what they say.
            now: the monotonic time in seconds.
        """
        remaining, reset = state.remaining, state.reset_seconds
        if remaining is None or reset is None or reset <= 0.0:
            return
        reset = min(reset, MAX_WINDOW_SECONDS)
        with self._lock:
            if remaining <= 0:
                self._closed_until = max(self._closed_until, now + reset)
                return
            plenty = SCARCE_REQUESTS if state.limit is None else SCARCE_SHARE * state.limit
            self._learned_interval = reset / remaining
            self._learned_until = now + reset if remaining <= plenty else 0.0

    def limited(self, until: float) -> None:
        """The remote refuses requests until then; it is asked gently afterwards."""
        with self._lock:
            self._resumes_at = max(self._resumes_at or 0.0, until)

    def reset(self) -> None:
        """Forget what was learned; what the user set stays."""
        with self._lock:
            self._learned_until = self._closed_until = self._next_at = 0.0
            self._resumes_at = None


class Pacing:
    """The pacers of one client's remotes.

    Args:
        paces: what the user set, by remote name.
    """

    def __init__(self, paces: Mapping[str, Pace]) -> None:
        self._pacers = {name: Pacer(pace) for name, pace in paces.items()}

    def of(self, target_name: str) -> Pacer:
        """The pacer of one remote."""
        pacer = self._pacers.get(target_name)
        return self._pacers.setdefault(target_name, Pacer(Pace())) if pacer is None else pacer

    def reset(self, target_name: str | None = None) -> None:
        """Forget what was learned of every remote, or of one."""
        for name, pacer in self._pacers.items():
            if target_name in (None, name):
                pacer.reset()
