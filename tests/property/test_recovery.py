"""Once a fault is over a remote is back within one open period and two probes, whatever came before."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    APITimeoutError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.routing.breaker import JITTER
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.health import HOST_RULE, MAX_KEYS, MODEL_RULE, Health
from hybrid_infer.routing.targets import Target
from hybrid_infer.routing.verdicts import verdict_for

TARGET = Target("remote", "remote", "host.example")
SPEC = ModelSpec("embeddings", "small", "org/model", None)
LONGEST = max(HOST_RULE.most_open_seconds, MODEL_RULE.most_open_seconds) * (1 + JITTER)
FAULTS = {
    "fine": None,
    "server": RemoteServerError("500", status=500),
    "refused": APIConnectionError("refused"),
    "slow": APITimeoutError("slow"),
}


HISTORIES = st.lists(
    st.tuples(st.sampled_from(sorted(FAULTS)), st.sampled_from([0.01, 1.0, 9.0, 70.0, 400.0])),
    max_size=80,
)


class Past:
    """A clock, and the health of a remote that has lived through a history."""

    def __init__(self, history, seed):
        self.now = 1000.0
        self.health = Health(lambda: self.now, random.Random(seed))
        for kind, seconds in history:
            admission = self.health.admit(TARGET, SPEC, 10.0)
            if admission is not None and (error := FAULTS[kind]) is not None:
                self.health.settle(admission, verdict_for(error), error)
            elif admission is not None:
                self.health.settle(admission)
            self.now += seconds

    def admits_many(self):
        return all(self.health.admit(TARGET, SPEC, 10.0) for _ in range(20))


@settings(max_examples=200, deadline=None)
@given(history=HISTORIES, seed=st.integers(0, 9))
def test_two_successes_after_one_open_period_close_everything(history, seed):
    past = Past(history, seed)
    closure = past.health.closed(TARGET, SPEC)
    if closure is not None:
        assert closure.until - past.now <= LONGEST
        past.now = closure.until
    for _ in range(2):
        probe = past.health.admit(TARGET, SPEC, 10.0)
        assert probe is not None
        past.health.settle(probe)
    assert past.admits_many()


@settings(max_examples=100, deadline=None)
@given(history=HISTORIES, seed=st.integers(0, 9), seconds=st.floats(0.1, 120.0))
def test_however_long_answers_take_two_close_everything(history, seed, seconds):
    past = Past(history, seed)
    closure = past.health.closed(TARGET, SPEC)
    ends_at = (past.now if closure is None else closure.until) + 2 * seconds + 3.0
    under_way = []
    while past.now < ends_at:
        while under_way and under_way[0][0] <= past.now:
            past.health.settle(under_way.pop(0)[1])
        admission = past.health.admit(TARGET, SPEC, 120.0)  # somebody asks once a second
        if admission is not None:
            under_way.append((past.now + seconds, admission))
        past.now += 1.0
    assert past.admits_many(), "after one open period and two probes"


def test_what_is_known_stays_bounded_even_if_everything_is_closed():
    health = Health(lambda: 1000.0, random.Random(7))
    error = RateLimitError("slow")
    verdict = verdict_for(error)
    for number in range(MAX_KEYS + 100):
        target = Target(f"remote-{number}", "remote", "host.example")
        closure = Closure(verdict.reason, error)
        health.close(target, SPEC, verdict.gate, seconds=60.0, closure=closure)
    assert len(health.snapshot()) == MAX_KEYS
