"""A circuit breaker: closed, open, half-open with one leased probe. Pure: time is an argument.

One breaker stands for one thing that can be unhealthy. Whoever wants to use that thing asks
`Breaker.admit` and gives the permit back with `Breaker.settle`; a permit of an older generation
changes nothing. A lease always ends: settled, released, or expired.

Not thread-safe; `Health` holds the lock.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

WINDOW = 20
WINDOW_SECONDS = 60.0
LEAST_RESULTS = 10
FAILURE_RATE = 0.5
LEASE_SECONDS = 10.0
JITTER = 0.2
FORGET_AFTER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When a breaker opens, for how long, and what closes it.

    Attributes:
        consecutive_failures: so many in a row open it.
        watches_rate: whether half of the last 20 results open it, too.
        first_open_seconds: how long it is open at first; doubled each time in a row.
        most_open_seconds: how long it is open at most.
        successes_to_close: successful probes in a row that close it.
    """

    consecutive_failures: int
    watches_rate: bool
    first_open_seconds: float
    most_open_seconds: float
    successes_to_close: int


class BreakerState(StrEnum):
    """What a breaker lets through: everything, nothing, or one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to use what a breaker guards, once.

    Attributes:
        generation: the breaker's period; a result of an older one is ignored.
    """

    generation: int


class Breaker:
    """One breaker.

    Args:
        rule: when it opens, and for how long.
        randomness: jitter of the open time, so that many clients do not come back together.
    """

    __slots__ = (
        "_closed_at",
        "_failures_in_a_row",
        "_lease_until",
        "_openings",
        "_permit",
        "_randomness",
        "_results",
        "_rule",
        "_successes_in_a_row",
        "generation",
        "state",
        "until",
    )

    def __init__(self, rule: BreakerRule, randomness: random.Random) -> None:
        self._rule = rule
        self._randomness = randomness
        self._results: deque[tuple[float, bool]] = deque(maxlen=WINDOW)
        self._failures_in_a_row = self._successes_in_a_row = self._openings = 0
        self._closed_at = 0.0
        self._lease_until: float | None = None
        self.generation = 0
        self._permit = Permit(0)  # what everyone gets while it is closed
        self.state = BreakerState.CLOSED
        self.until = 0.0

    def closed_until(self, now: float) -> float | None:
        """When a use may be admitted again, or None if one would be admitted now."""
        if self.state is BreakerState.CLOSED:
            return None
        if self._lease_until is not None:
            if now < self._lease_until:
                return self._lease_until
            # A probe that outlived its lease has failed, from the moment the lease ended.
            self.trip(self._lease_until)
        if self.state is BreakerState.OPEN and now < self.until:
            return self.until
        return None

    def admit(self, now: float, lease_seconds: float = LEASE_SECONDS) -> Permit | None:
        """A permit, or None while the breaker is open or its one probe is under way.

        Args:
            now: the monotonic time in seconds.
            lease_seconds: how long a probe may take before it counts as failed.
        """
        if self.state is BreakerState.CLOSED:
            return self._permit
        if self.closed_until(now) is not None:
            return None
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN
            self._successes_in_a_row = 0
            self.generation += 1
        self._lease_until = now + min(LEASE_SECONDS, lease_seconds)
        return Permit(self.generation)

    def settle(self, permit: Permit, now: float, *, succeeded: bool | None) -> None:
        """Give a permit back.

        Args:
            permit: from `admit`; a stale one changes nothing.
            now: the monotonic time in seconds.
            succeeded: how the use went; None says nothing of what the breaker guards (the
                caller left, or the fault was the caller's), and only ends the lease.
        """
        if permit.generation != self.generation:
            return
        if self.state is BreakerState.HALF_OPEN:
            self._settle_probe(now, succeeded=succeeded)
        elif succeeded is not None:
            self._record(now, succeeded=succeeded)

    def _settle_probe(self, now: float, *, succeeded: bool | None) -> None:
        self._lease_until = None
        if succeeded is None:
            return
        if not succeeded:
            self.trip(now)
            return
        self._successes_in_a_row += 1
        if self._successes_in_a_row >= self._rule.successes_to_close:
            self.state = BreakerState.CLOSED
            self.generation += 1
            self._permit = Permit(self.generation)
            self._closed_at = now
            self._results.clear()
            self._failures_in_a_row = 0

    def _record(self, now: float, *, succeeded: bool) -> None:
        self._results.append((now, succeeded))
        if succeeded:
            self._failures_in_a_row = 0
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._rule.consecutive_failures or (
            self._rule.watches_rate and self._rate_is_bad(now)
        ):
            self.trip(now)

    def _rate_is_bad(self, now: float) -> bool:
        recent = [ok for at, ok in self._results if now - at <= WINDOW_SECONDS]
        return len(recent) >= LEAST_RESULTS and recent.count(False) >= FAILURE_RATE * len(recent)

    def trip(self, now: float) -> None:
        """Open; for twice as long as the last time, unless that was long ago."""
        if self.state is BreakerState.CLOSED and now - self._closed_at > FORGET_AFTER_SECONDS:
            self._openings = 0
        rule = self._rule
        seconds = min(rule.first_open_seconds * 2.0**self._openings, rule.most_open_seconds)
        self._openings = min(self._openings + 1, 32)
        self.until = max(self.until, now + seconds * (1.0 + JITTER * self._randomness.random()))
        self.state = BreakerState.OPEN
        self.generation += 1
        self._lease_until = None
