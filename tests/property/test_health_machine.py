"""Health against a small reference model, step by step: whatever happens, in whatever order."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    InvalidRequestError,
    QuotaExceededError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.health import Health
from hybrid_infer.routing.targets import Target
from hybrid_infer.routing.verdicts import verdict_for

TARGET = Target("remote", "remote", "host.example")
SPEC = ModelSpec("embeddings", "small", "org/model", None)
LEASE = 10.0

FAILURES = {
    "server": RemoteServerError("500", status=500),
    "refused": APIConnectionError("refused"),
    "mistake": InvalidRequestError("bad", argument="x"),
}


class NoJitter(random.Random):
    def random(self):
        return 0.0


class ReferenceBreaker:
    """The rules, written down once more: no generations, no reuse, a list of everything."""

    def __init__(self, consecutive, rate, first, most, needed, lease, reopens):
        self.consecutive, self.rate, self.needed = consecutive, rate, needed
        self.first, self.most, self.longest_lease, self.reopens = first, most, lease, reopens
        self.period, self.openings, self.closed_at, self.seconds = 0, 0, 0.0, 0.0
        self.results, self.until, self.lease, self.successes = [], None, None, 0
        self.probe = None

    def refuses(self, now):
        if self.lease is not None and now >= self.lease:
            if self.reopens:
                self.until = self.lease + self.seconds
            self.lease = self.probe = None
        return (self.until is not None and now < self.until) or self.lease is not None

    def take(self, now):
        ticket = (self.period, object())
        if self.until is not None:
            assert self.lease is None, "one lease at a time"
            self.lease, self.probe = now + min(LEASE, self.longest_lease), ticket
        return ticket

    def open(self, now):
        if self.until is None and now - self.closed_at > 300:
            self.openings = 0
        self.seconds = min(self.first * 2**self.openings, self.most)
        self.until = max(now + self.seconds, self.lease or 0.0)
        self.openings, self.period = self.openings + 1, self.period + 1
        self.results, self.lease, self.probe, self.successes = [], None, None, 0

    def end(self, ticket, now, succeeded):
        if ticket[0] != self.period:
            return
        if self.until is not None:
            if ticket is self.probe:
                self.lease = self.probe = None
            if succeeded:
                self.until = 0.0
                self.successes += 1
                if self.successes == self.needed:
                    self.until, self.closed_at, self.results = None, now, []
                    self.lease, self.probe, self.period = None, None, self.period + 1
            elif succeeded is False:
                self.open(now)
        elif succeeded is not None:
            self.results.append((now, succeeded))
            last = [ok for at, ok in self.results[-20:] if now - at <= 60]
            row = [ok for _, ok in self.results[-self.consecutive :]]
            if not succeeded and (
                (len(row) == self.consecutive and not any(row))
                or (self.rate and len(last) >= 10 and 2 * last.count(False) >= len(last))
            ):
                self.open(now)


def reference_host():
    return ReferenceBreaker(1, rate=False, first=1.0, most=60.0, needed=1, lease=4.0, reopens=False)


def reference_model():
    return ReferenceBreaker(
        5, rate=True, first=10.0, most=300.0, needed=2, lease=10.0, reopens=True
    )


class HealthMachine(RuleBasedStateMachine):
    """One remote, one model, a virtual clock, and any number of calls under way."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.health = Health(lambda: self.now, NoJitter())
        self.host, self.model = reference_host(), reference_model()
        self.gate, self.probing = 0.0, None
        self.gate_needs_probe = False
        self.under_way = []
        self.last_until = 0.0

    def refuses(self):
        # No short cut: looking at a breaker ends a lease that is overdue.
        refusals = [self.host.refuses(self.now), self.model.refuses(self.now)]
        return any(refusals) or self.now < self.gate

    @rule(seconds=st.sampled_from([0.1, 0.9, 1.0, 4.0, 5.0, 10.0, 61.0, 301.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def ask(self):
        expected = not self.refuses()
        admission = self.health.admit(TARGET, SPEC, LEASE)
        assert (admission is not None) == expected
        if admission is None:
            return
        probe = None
        if self.gate and self.gate_needs_probe:
            self.gate = self.now + LEASE
            probe = self.probing = object()
        tickets = self.host.take(self.now), self.model.take(self.now)
        self.under_way.append((admission, *tickets, probe))

    def pop(self, index):
        return self.under_way.pop(index % len(self.under_way))

    def settle_gate(self, probe, *, succeeded):
        if probe is not None and probe is self.probing:
            self.probing = None
            self.gate = 0.0 if succeeded else self.now

    @precondition(lambda self: self.under_way)
    @rule(index=st.integers(0, 50))
    def succeed(self, index):
        admission, host, model, probe = self.pop(index)
        self.health.settle(admission)
        self.host.end(host, self.now, True)
        self.model.end(model, self.now, True)
        self.settle_gate(probe, succeeded=True)
        self.last_until = 0.0

    @precondition(lambda self: self.under_way)
    @rule(index=st.integers(0, 50), kind=st.sampled_from(sorted(FAILURES)))
    def fail(self, index, kind):
        admission, host, model, probe = self.pop(index)
        error = FAILURES[kind]
        self.health.settle(admission, verdict_for(error), error)
        self.host.end(host, self.now, {"server": True, "refused": False}.get(kind))
        self.model.end(model, self.now, False if kind == "server" else None)
        self.settle_gate(probe, succeeded=False)
        self.last_until = 0.0

    @precondition(lambda self: self.under_way)
    @rule(index=st.integers(0, 50))
    def leave(self, index):
        admission, host, model, probe = self.pop(index)
        self.health.release(admission)
        self.host.end(host, self.now, None)
        self.model.end(model, self.now, None)
        self.settle_gate(probe, succeeded=False)
        self.last_until = 0.0

    @rule(
        seconds=st.floats(0.0, 5000.0),
        error=st.sampled_from([RateLimitError("429"), QuotaExceededError("402")]),
    )
    def gate_closes(self, seconds, error):
        verdict = verdict_for(error)
        closure = Closure(verdict.reason, error)
        self.health.close(TARGET, SPEC, verdict.gate, seconds=seconds, closure=closure)
        until = self.now + min(seconds, 3600.0)
        if until > self.gate:
            self.gate, self.probing = until, None
            self.gate_needs_probe = isinstance(error, QuotaExceededError)

    @rule()
    def reset(self):
        self.health.reset()
        self.__dict__ |= {
            "host": reference_host(), "model": reference_model(),
            "gate": 0.0, "probing": None, "under_way": [], "last_until": 0.0,
        }  # fmt: skip

    @invariant()
    def closed_means_refused(self):
        closure = self.health.closed(TARGET, SPEC)
        assert (closure is not None) == self.refuses()
        if closure is not None:
            assert closure.until > self.now
            assert closure.until >= self.last_until, "until is never shortened"
        self.last_until = 0.0 if closure is None else closure.until


HealthMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_health_follows_the_reference = HealthMachine.TestCase
