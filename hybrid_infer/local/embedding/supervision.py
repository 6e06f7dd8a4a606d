"""How often a thread that dies is replaced. Pure but for the clock that it is given."""

from __future__ import annotations

from collections import deque

from hybrid_infer.datatypes.deadline import Clock


class RestartLimit:
    """Allows a bounded number of restarts within a sliding time.

    Args:
        restarts: restarts allowed within `seconds`.
        seconds: the sliding time.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, restarts: int, seconds: float, clock: Clock) -> None:
        self._restarts, self._seconds, self._clock = restarts, seconds, clock
        self._times: deque[float] = deque()

    def allows_one_more(self) -> bool:
        """Count a death; whether its thread may be replaced."""
        now = self._clock()
        while self._times and now - self._times[0] >= self._seconds:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self._restarts
