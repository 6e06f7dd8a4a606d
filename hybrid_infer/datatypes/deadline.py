"""One absolute, monotonic limit that travels with a call through every layer."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class Deadline:
    """The moment at which a call must have ended.

    Two kinds exist. A fixed deadline bounds the whole call. A renewable one bounds the time
    *without progress*: whoever sees progress (a response body, a finished batch, a token)
    calls `renew`, which moves the limit on.

    Args:
        seconds: time allowed from now (fixed), or between two signs of progress (renewable).
        renewable: which kind.
        clock: a monotonic clock in seconds.
    """

    __slots__ = ("_clock", "_expires_at", "renewable", "seconds")

    def __init__(
        self, seconds: float, *, renewable: bool = False, clock: Clock = time.monotonic
    ) -> None:
        self.seconds = seconds
        self.renewable = renewable
        self._clock = clock
        self._expires_at = clock() + seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._expires_at - self._clock())

    def expired(self) -> bool:
        """Whether no time is left."""
        return self._clock() >= self._expires_at

    def renew(self) -> None:
        """Report progress. Moves a renewable deadline on; a fixed one stays where it is."""
        if self.renewable:
            self._expires_at = max(self._expires_at, self._clock() + self.seconds)

    def at_most(self, seconds: float) -> Deadline:
        """A fixed deadline `seconds` from now that never outlives this one."""
        return Deadline(min(seconds, self.left()), clock=self._clock)

    def __repr__(self) -> str:
        kind = "without progress" if self.renewable else "in all"
        return f"Deadline({self.left():.3f} s left of {self.seconds} s {kind})"
