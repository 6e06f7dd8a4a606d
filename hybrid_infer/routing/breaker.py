"""A circuit breaker: closed, open, half-open with one leased probe. Pure: time is an argument.

One breaker stands for one thing that can be unhealthy. Whoever wants to use that thing asks
`Breaker.admit` and gives the permit back with `Breaker.settle`; a permit of an older generation
changes nothing. A lease always ends: settled, released, or expired.

A lease that expires only lets others look again. It does not say how its probe will end, for a
healthy answer may take minutes: so it begins no new generation, and a probe that comes back late
counts like one in time, unless another result has closed or opened the breaker since.

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
        lease_seconds: how long a probe keeps all others away at most.
        reopens_when_overdue: whether it opens again, for as long as the last time, when a probe
            outlives its lease; else the next probe is due at once.
    """

    consecutive_failures: int
    watches_rate: bool
    first_open_seconds: float
    most_open_seconds: float
    successes_to_close: int
    lease_seconds: float = LEASE_SECONDS
    reopens_when_overdue: bool = True


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
        "_probe",
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
        self._probe: Permit | None = None  # whose lease that is
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
            self._expire(self._lease_until)
        if self.state is BreakerState.OPEN and now < self.until:
            return self.until
        return None

    def admit(self, now: float, lease_seconds: float = LEASE_SECONDS) -> Permit | None:
        """A permit, or None while the breaker is open or its one probe is under way.

        Args:
            now: the monotonic time in seconds.
            lease_seconds: how long a probe may take before others may follow.
        """
        if self.state is BreakerState.CLOSED:
            return self._permit
        if self.closed_until(now) is not None:
            return None
        self.state = BreakerState.HALF_OPEN
        self._lease_until = now + min(self._rule.lease_seconds, lease_seconds)
        self._probe = Permit(self.generation)
        return self._probe

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
        if self.state is not BreakerState.CLOSED:
            self._settle_probe(permit, now, succeeded=succeeded)
        elif succeeded is not None:
            self._record(now, succeeded=succeeded)

    def _settle_probe(self, permit: Permit, now: float, *, succeeded: bool | None) -> None:
        if permit is self._probe:  # an overdue one leaves the lease of the one that followed it
            self._lease_until = self._probe = None
        if succeeded is None:
            return
        if not succeeded:
            self.trip(now)
            return
        self._successes_in_a_row += 1
        if self._successes_in_a_row >= self._rule.successes_to_close:
            self._close(now)
        else:
            self.state = BreakerState.HALF_OPEN  # an overdue one's success ends the wait for it

    def _close(self, now: float) -> None:
        self.state = BreakerState.CLOSED
        self.generation += 1
        self._permit = Permit(self.generation)
        self._lease_until = self._probe = None
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
        self._openings = min(self._openings + 1, 32)
        self._successes_in_a_row = 0
        self.generation += 1
        self._open(now)

    def _expire(self, ended_at: float) -> None:
        """End the lease of an overdue probe; that neither counts nor makes the next wait longer.

        Else a remote whose healthy answers take longer than a lease would never be used again.
        """
        if self._rule.reopens_when_overdue:
            self._open(ended_at)
        else:
            self._lease_until = self._probe = None

    def _open(self, since: float) -> None:
        rule = self._rule
        seconds = min(rule.first_open_seconds * 2.0 ** (self._openings - 1), rule.most_open_seconds)
        until = since + seconds * (1.0 + JITTER * self._randomness.random())
        # While a probe is under way nobody joins it, even if an overdue one has just failed.
        self.until = max(self.until, until, self._lease_until or 0.0)
        self.state = BreakerState.OPEN
        self._lease_until = self._probe = None
