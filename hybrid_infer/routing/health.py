"""What is known of every remote's health: breakers, timed gates and retry budgets, by key.

Three keys must admit a call: its host (does anything answer there?), its account (rate limits,
credits, the key itself) and its model there (server errors, slow or wrong answers, loading).
Gates count no failures and breakers name no waits; both live under one lock a key, which is never
held while a call is under way.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import HybridInferError
from hybrid_infer.routing.breaker import LEASE_SECONDS, BreakerRule
from hybrid_infer.routing.budget import RetryBudget
from hybrid_infer.routing.condition import Closure, Condition, Pass
from hybrid_infer.routing.targets import Target
from hybrid_infer.routing.verdicts import Gate, Scope, Verdict

MAX_KEYS = 1024

# A host that refuses a connection refuses the next one too, and may be back in a second.
# Only connecting can fail it, which by default may take 3 s. A probe that is still under way after
# that has connected, and waits for its answer: no reason to keep others from trying the host. (Were
# it still connecting, for want of a shorter `connect_timeout_seconds`, one more probe does no harm.)
HOST_RULE = BreakerRule(
    consecutive_failures=1,
    watches_rate=False,
    first_open_seconds=1.0,
    most_open_seconds=60.0,
    successes_to_close=1,
    lease_seconds=4.0,
    reopens_when_overdue=False,
)
MODEL_RULE = BreakerRule(
    consecutive_failures=5,
    watches_rate=True,
    first_open_seconds=10.0,
    most_open_seconds=300.0,
    successes_to_close=2,
)
_RULES = {Scope.HOST: HOST_RULE, Scope.ACCOUNT: None, Scope.MODEL: MODEL_RULE}

Key = tuple[Scope, str, str, str]


def host_of(target: Target) -> str:
    """What a remote's host is known under."""
    return target.host or target.name


def keys_of(target: Target, spec: ModelSpec) -> tuple[Key, Key, Key]:
    """The keys that a call of `spec` at `target` depends on."""
    return (
        (Scope.HOST, host_of(target), "", ""),
        (Scope.ACCOUNT, target.name, "", ""),
        (Scope.MODEL, target.name, spec.task, spec.repo),
    )


@dataclass(slots=True)
class Admission:
    """Leave for one call to one target; goes back through `Health.settle` or `Health.release`."""

    target: Target
    passes: Sequence[tuple[Scope, Condition, Pass]]


class Health:
    """The health of every remote of one client. Safe to share between threads.

    Args:
        clock: a monotonic clock in seconds.
        randomness: jitter of open times.
    """

    def __init__(self, clock: Clock, randomness: random.Random) -> None:
        self._clock = clock
        self._randomness = randomness
        self._conditions: OrderedDict[Key, Condition] = OrderedDict()
        self._budgets: dict[str, RetryBudget] = {}
        self._lock = Lock()

    def closed(
        self, target: Target, spec: ModelSpec, *, is_polling: bool = False
    ) -> Closure | None:
        """What keeps `spec` from being sent to `target` now, the longest first; None: nothing.

        Args:
            target: a remote.
            spec: the model.
            is_polling: whether the call waits for a model that loads, which closes it to others.
        """
        now = self._clock()
        latest: Closure | None = None
        for key in keys_of(target, spec):
            condition = self._conditions.get(key)
            closure = None if condition is None else condition.closed(now, is_polling=is_polling)
            if closure is not None and (latest is None or closure.until > latest.until):
                latest = closure
        return latest

    def admit(
        self, target: Target, spec: ModelSpec, lease_seconds: float, *, is_polling: bool = False
    ) -> Admission | None:
        """Leave to send `spec` to `target` once, or None if something has closed.

        Args:
            target: a remote.
            spec: the model.
            lease_seconds: how long the call may take; after that others may follow a probe.
            is_polling: as for `closed`.
        """
        now = self._clock()
        lease = min(lease_seconds, LEASE_SECONDS)
        passes: list[tuple[Scope, Condition, Pass]] = []
        for key in keys_of(target, spec):
            condition = self._condition(key)
            granted = condition.admit(now, lease, is_polling=is_polling)
            if granted is None:
                self.release(Admission(target, passes))
                return None
            passes.append((key[0], condition, granted))
        return Admission(target, passes)

    def settle(
        self,
        admission: Admission,
        verdict: Verdict | None = None,
        error: HybridInferError | None = None,
    ) -> None:
        """Learn how an admitted call went.

        Args:
            admission: from `admit`.
            verdict: what follows from its failure; None: it succeeded.
            error: the failure.
        """
        now = self._clock()
        if verdict is None or error is None:
            for _, condition, granted in admission.passes:
                condition.settle(granted, now, succeeded=True)
            self._budget(admission.target).succeeded()
            return
        for scope, condition, granted in admission.passes:
            if scope is verdict.counts_against:
                condition.settle(granted, now, succeeded=False, reason=verdict.reason, error=error)
            else:
                # Whoever sent a status is up, whatever it says of the model.
                is_up = scope is Scope.HOST and error.status is not None
                condition.settle(granted, now, succeeded=True if is_up else None)

    def count_failure(
        self, admission: Admission, verdict: Verdict, error: HybridInferError
    ) -> None:
        """Learn of a failure after `admission` was settled: a stream that broke later on."""
        now = self._clock()
        for scope, condition, granted in admission.passes:
            if scope is verdict.counts_against:
                condition.count_failure(granted, now, Closure(verdict.reason, error))

    def release(self, admission: Admission) -> None:
        """End an admission that says nothing: the caller left, or was not let through after all."""
        now = self._clock()
        for _, condition, granted in admission.passes:
            condition.settle(granted, now, succeeded=None)

    def close(
        self, target: Target, spec: ModelSpec, rule: Gate, *, seconds: float, closure: Closure
    ) -> None:
        """Close what `rule` names for `seconds`; never shortens what is closed for longer.

        Args:
            target: the remote that asked for it.
            spec: the model.
            rule: the scope, and how long at least and at most.
            seconds: for how long.
            closure: why; its ``until`` is replaced.
        """
        seconds = min(max(seconds, rule.least_seconds), rule.most_seconds)
        key = next(key for key in keys_of(target, spec) if key[0] is rule.scope)
        self._condition(key).close(
            closure.lasting(self._clock() + seconds), needs_probe=rule.needs_probe
        )

    def take_retry(self, target: Target) -> bool:
        """Pay for a retry from the budget of `target`; False if it allows none now."""
        return self._budget(target).take()

    def give_back_retry(self, target: Target) -> None:
        """A retry that was paid for is not made."""
        self._budget(target).give_back()

    def reset(self, targets: Iterable[Target] | None = None) -> None:
        """Forget everything, or everything about some remotes and their hosts."""
        with self._lock:
            if targets is None:
                self._conditions.clear()
                self._budgets.clear()
                return
            for target in targets:
                self._budgets.pop(target.name, None)
                for key in list(self._conditions):
                    if key[1] == (host_of(target) if key[0] is Scope.HOST else target.name):
                        del self._conditions[key]

    def snapshot(self) -> dict[Key, Closure]:
        """What is closed now, by key."""
        now = self._clock()
        with self._lock:
            conditions = list(self._conditions.items())
        closures = ((key, condition.closed(now)) for key, condition in conditions)
        return {key: closure for key, closure in closures if closure is not None}

    def _condition(self, key: Key) -> Condition:
        condition = self._conditions.get(key)
        if condition is not None:
            return condition
        with self._lock:
            condition = self._conditions.get(key)
            if condition is None:
                if len(self._conditions) >= MAX_KEYS:
                    self._forget_one()
                condition = Condition(_RULES[key[0]], self._randomness)
                self._conditions[key] = condition
        return condition

    def _forget_one(self) -> None:
        """Make room: the oldest key that closes nothing, else the oldest."""
        now = self._clock()
        idle = (key for key, known in self._conditions.items() if known.closed(now) is None)
        del self._conditions[next(idle, next(iter(self._conditions)))]

    def _budget(self, target: Target) -> RetryBudget:
        budget = self._budgets.get(target.name)
        return self._budgets.setdefault(target.name, RetryBudget()) if budget is None else budget
