"""Timed gates: what a remote's answer closes for the calls that follow, and until when.

A gate is time-based and kept in one place; `until` only ever moves later while it is closed, and
a success opens nothing: whatever succeeds while a gate is closed was sent before it closed.
Gates count no failures: the breaker that does is a separate concern.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import HybridInferError
from hybrid_infer.routing.targets import Target
from hybrid_infer.routing.verdicts import Gate, Scope

MAX_KEYS = 1024
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClosedGate:
    """One closed gate.

    Attributes:
        until: the monotonic moment at which it opens.
        reason: why it closed.
        error: the error that closed it.
    """

    until: float
    reason: Reason
    error: HybridInferError


def _key(scope: Scope, target: Target, spec: ModelSpec) -> Key:
    if scope is Scope.ACCOUNT:
        return (target.name,)
    return (target.name, spec.task, spec.repo)


class Health:
    """Every gate of one client.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gates: OrderedDict[Key, ClosedGate] = OrderedDict()
        self._lock = Lock()

    def closed(self, target: Target, spec: ModelSpec) -> ClosedGate | None:
        """The gate that keeps `spec` from being sent to `target` now, or None if all are open."""
        if not self._gates:
            return None
        now = self._clock()
        latest: ClosedGate | None = None
        with self._lock:
            for scope in Scope:
                key = _key(scope, target, spec)
                gate = self._gates.get(key)
                if gate is None:
                    continue
                if gate.until <= now:
                    del self._gates[key]
                elif latest is None or gate.until > latest.until:
                    latest = gate
        return latest

    def close(
        self,
        target: Target,
        spec: ModelSpec,
        rule: Gate,
        *,
        seconds: float,
        reason: Reason,
        error: HybridInferError,
    ) -> None:
        """Close what `rule` names for `seconds`; never shortens a gate that is closed for longer."""
        until = self._clock() + min(seconds, rule.most_seconds)
        key = _key(rule.scope, target, spec)
        with self._lock:
            old = self._gates.get(key)
            if old is None or old.until < until:
                self._gates[key] = ClosedGate(until, reason, error)
                self._gates.move_to_end(key)
            if len(self._gates) > MAX_KEYS:
                self._gates.popitem(last=False)

    def reset(self, target_name: str | None = None) -> None:
        """Open every gate, or every gate of one target."""
        with self._lock:
            for key in [key for key in self._gates if target_name in (None, key[0])]:
                del self._gates[key]

    def snapshot(self) -> dict[Key, ClosedGate]:
        """The gates that are closed now, by key."""
        now = self._clock()
        with self._lock:
            return {key: gate for key, gate in self._gates.items() if gate.until > now}
