"""The condition of one health key: its breaker, if it has one, and its timed gate, under one lock."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from threading import Lock

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import HybridInferError
from hybrid_infer.routing.breaker import Breaker, BreakerRule, BreakerState, Permit

GATED = "gated"


@dataclass(frozen=True, slots=True)
class Closure:
    """Why something is closed, and until when.

    Attributes:
        reason: why.
        error: the failure that closed it.
        until: the monotonic moment at which it may be used again.
        state: ``gated`` (a wait that was named, or a fixed one), ``open`` or ``half_open`` (a
            breaker; half-open means that one probe is under way).
    """

    reason: Reason
    error: HybridInferError
    until: float = 0.0
    state: str = GATED

    def lasting(self, until: float) -> Closure:
        """The same until another moment."""
        return replace(self, until=until)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one key gave to a call that it admitted."""

    permit: Permit | None
    probed: Closure | None


class Condition:
    """One key's condition.

    Args:
        rule: its breaker's; None for a key that only has a gate.
        randomness: jitter of the breaker's open time.
    """

    __slots__ = ("_breaker", "_gate", "_last_failure", "_lock", "_needs_probe", "_usual")

    def __init__(self, rule: BreakerRule | None, randomness: random.Random) -> None:
        self._breaker = None if rule is None else Breaker(rule, randomness)
        self._gate: Closure | None = None
        self._needs_probe = False
        self._last_failure: Closure | None = None
        self._usual = Pass(None, None)
        self._lock = Lock()

    def closed(self, now: float, *, is_polling: bool = False) -> Closure | None:
        """What keeps a call away now, whichever lasts longer; None if one would be admitted."""
        breaker = self._breaker
        if self._gate is None and (breaker is None or breaker.state is BreakerState.CLOSED):
            return None  # nearly always so; `admit` looks again, under the lock
        with self._lock:
            return self._closed(now, is_polling=is_polling)

    def _closed(self, now: float, *, is_polling: bool) -> Closure | None:
        gate = self._gate
        if gate is not None and (
            gate.until <= now or (is_polling and gate.reason is Reason.MODEL_LOADING)
        ):
            gate = None
        breaker = self._breaker
        if breaker is None or breaker.state is BreakerState.CLOSED:
            return gate
        until = breaker.closed_until(now)
        if until is None or self._last_failure is None or (gate is not None and gate.until > until):
            return gate
        return replace(self._last_failure, until=until, state=str(breaker.state))

    def admit(self, now: float, lease_seconds: float, *, is_polling: bool) -> Pass | None:
        """Let one call through, as a probe where one is due; None if it is closed."""
        with self._lock:
            if self._gate is not None and self._closed(now, is_polling=is_polling) is not None:
                return None
            permit = None
            if self._breaker is not None:
                permit = self._breaker.admit(now, lease_seconds)
                if permit is None:
                    return None
            if self._gate is not None and self._needs_probe:
                # The others stay away until this one is back, or its lease has ended.
                self._gate = self._gate.lasting(now + lease_seconds)
                return Pass(permit, self._gate)
            if self._gate is not None and is_polling:
                # Whoever waits for the model is the first to find it loaded.
                return Pass(permit, self._gate)
            if self._usual.permit is not permit:
                self._usual = Pass(permit, None)
            return self._usual

    def settle(
        self,
        granted: Pass,
        now: float,
        *,
        succeeded: bool | None,
        reason: Reason | None = None,
        error: HybridInferError | None = None,
    ) -> None:
        """Learn how an admitted call went; None: it says nothing about this key.

        A success opens a gate only if it was one of this gate's own probes, in time or overdue:
        whatever else succeeds while a gate is closed was sent before it closed.
        """
        if granted.permit is None and granted.probed is None:
            return
        with self._lock:
            if reason is not None and error is not None:
                self._last_failure = Closure(reason, error)
            if granted.permit is not None and self._breaker is not None:
                self._breaker.settle(granted.permit, now, succeeded=succeeded)
            probed, gate = granted.probed, self._gate
            if probed is None or gate is None:
                return
            if succeeded and probed.error is gate.error:
                self._gate = None
            elif not succeeded and probed is gate and self._needs_probe:
                self._gate = gate.lasting(now)

    def count_failure(self, granted: Pass, now: float, failure: Closure) -> None:
        """Learn of a failure after all; a pass of an older period changes nothing."""
        with self._lock:
            breaker, permit = self._breaker, granted.permit
            if breaker is None or permit is None or permit.generation != breaker.generation:
                return
            self._last_failure = failure
            breaker.settle(permit, now, succeeded=False)

    def close(self, gate: Closure, *, needs_probe: bool) -> None:
        """Close the gate until `gate.until`, unless it is closed for longer already."""
        with self._lock:
            if self._gate is None or self._gate.until < gate.until:
                self._gate, self._needs_probe = gate, needs_probe
