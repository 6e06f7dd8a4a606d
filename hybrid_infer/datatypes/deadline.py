"""One absolute, monotonic limit that travels with a call through every layer."""

from __future__ import annotations

import math
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

    @property
    def asked_seconds(self) -> float:
        """The limit as the caller knows it, for messages."""
        return self.seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._ends_at() - self._clock())

    def expired(self) -> bool:
        """Whether no time is left."""
        return self._clock() >= self._ends_at()

    def _ends_at(self) -> float:
        return self._expires_at

    def renew(self) -> None:
        """Report progress. Moves a renewable deadline on; a fixed one stays where it is."""
        if self.renewable:
            self._expires_at = max(self._expires_at, self._clock() + self.seconds)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when whatever runs under this deadline is given up.

        Only an attempt can be given up; see `AttemptDeadline.cancel`.
        """

    def at_most(self, seconds: float) -> Deadline:
        """A fixed deadline `seconds` from now that never outlives this one."""
        return Deadline(min(seconds, self.left()), clock=self._clock)

    def attempt(
        self, *, limit_seconds: float | None = None, silence_seconds: float | None = None
    ) -> AttemptDeadline:
        """The share of this deadline that one attempt may use; see `AttemptDeadline`."""
        return AttemptDeadline(self, limit_seconds, silence_seconds)

    def __repr__(self) -> str:
        kind = "without progress" if self.renewable else "in all"
        return f"Deadline({self.left():.3f} s left of {self.seconds} s {kind})"


class AttemptDeadline(Deadline):
    """The share of a call's deadline that one attempt may use.

    It binds until `release`, which the driver calls once the attempt is committed (a stream's
    first chunk has arrived); from then on only the call's own deadline holds.

    Args:
        parent: the call's deadline, never outlived.
        limit_seconds: time for the whole attempt; None: the parent's.
        silence_seconds: time between two signs of progress; None: no limit of its own.
    """

    __slots__ = ("_callbacks", "_is_cancelled", "_limit_at", "_parent", "_released")

    def __init__(
        self, parent: Deadline, limit_seconds: float | None, silence_seconds: float | None
    ) -> None:
        silence = math.inf if silence_seconds is None else silence_seconds
        super().__init__(silence, renewable=True, clock=parent._clock)  # noqa: SLF001 - base class
        self._parent = parent
        self._limit_at = math.inf if limit_seconds is None else self._clock() + limit_seconds
        self._released = False
        self._is_cancelled = False
        self._callbacks: list[Callable[[], object]] = []

    @property
    def asked_seconds(self) -> float:
        """The call's own limit: the share of an attempt is nobody's business outside."""
        return self._parent.asked_seconds

    def _ends_at(self) -> float:
        """The end of the attempt or of the call, whichever comes first."""
        if self._is_cancelled:
            return -math.inf
        call_ends_at = self._parent._ends_at()  # noqa: SLF001 - of the base class
        if self._released:
            return call_ends_at
        return min(self._limit_at, self._expires_at, call_ends_at)

    def renew(self) -> None:
        """Report progress to the attempt and to the call."""
        super().renew()
        self._parent.renew()

    def release(self) -> None:
        """Lift the attempt's own limits."""
        self._released = True

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, from any thread, when the attempt is given up."""
        self._callbacks.append(callback)
        if self._is_cancelled:
            callback()

    def cancel(self) -> None:
        """Give the attempt up: no time is left, and whoever waits is woken. Harmless afterwards."""
        self._is_cancelled = True
        for callback in self._callbacks:
            callback()
