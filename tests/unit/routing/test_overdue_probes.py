"""A probe that outlives its lease: others may look again, and its own late result still counts."""

import random

import pytest

from hybrid_infer.routing.breaker import Breaker, BreakerState
from hybrid_infer.routing.health import HOST_RULE, MODEL_RULE


class NoJitter(random.Random):
    def random(self):
        return 0.0


@pytest.fixture
def breaker():
    """A model's, open from 0 to 10."""
    breaker = Breaker(MODEL_RULE, NoJitter())
    fail(breaker, 0.0, MODEL_RULE.consecutive_failures)
    assert breaker.until == 10.0
    return breaker


@pytest.fixture
def host():
    """A host's, open from 0 to 1."""
    host = Breaker(HOST_RULE, NoJitter())
    fail(host, 0.0)
    assert host.until == 1.0
    return host


def fail(breaker, now, times=1):
    for _ in range(times):
        breaker.settle(breaker.admit(now), now, succeeded=False)


def test_however_many_probes_are_overdue_it_does_not_stay_open_for_longer(breaker):
    now, lengths = breaker.until, []
    for _ in range(6):
        breaker.admit(now)
        now = breaker.closed_until(now)
        lengths.append(breaker.closed_until(now) - now)
        now = breaker.until
    assert lengths == [10.0] * 6


def test_the_success_of_an_overdue_probe_counts(breaker):
    first = breaker.admit(10.0)
    assert breaker.closed_until(20.0) == 30.0
    breaker.settle(first, 22.0, succeeded=True)
    assert breaker.state is BreakerState.HALF_OPEN
    second = breaker.admit(22.0)
    assert second is not None, "the next one is due at once"
    assert breaker.closed_until(32.0) == 42.0
    breaker.settle(second, 34.0, succeeded=True)
    assert breaker.state is BreakerState.CLOSED, "two in a row, both of them late"


def test_answers_that_take_longer_than_lease_and_open_time_together_close_it(breaker):
    now, under_way = 10.0, []
    while breaker.state is not BreakerState.CLOSED:
        while under_way and under_way[0][0] <= now:
            breaker.settle(under_way.pop(0)[1], now, succeeded=True)
        permit = breaker.admit(now)
        if permit is not None and breaker.state is BreakerState.HALF_OPEN:
            under_way.append((now + 55.0, permit))
        now += 1.0
        assert now < 120.0, "one open period and two answers"


@pytest.mark.parametrize("has_follower", [False, True])
def test_the_failure_of_an_overdue_probe_counts_once(breaker, has_follower):
    lost = breaker.admit(10.0)
    assert breaker.closed_until(20.0) == 30.0
    follower = breaker.admit(30.0) if has_follower else None
    breaker.settle(lost, 31.0, succeeded=False)
    assert breaker.until == 51.0
    if follower is not None:
        for succeeded in (False, True, True):
            breaker.settle(follower, 32.0, succeeded=succeeded)
    assert (breaker.state, breaker.until) == (BreakerState.OPEN, 51.0)
    assert breaker.admit(51.0) is not None


def test_an_overdue_success_leaves_the_lease_of_the_probe_that_followed(breaker):
    lost = breaker.admit(10.0)
    assert breaker.closed_until(20.0) == 30.0
    follower = breaker.admit(30.0)
    breaker.settle(lost, 31.0, succeeded=True)
    assert breaker.admit(31.0) is None
    assert breaker.closed_until(31.0) == 40.0
    breaker.settle(follower, 33.0, succeeded=True)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 33.0, 4)
    assert breaker.state is BreakerState.CLOSED


def test_an_overdue_probe_that_says_nothing_changes_nothing(breaker):
    lost = breaker.admit(10.0)
    assert breaker.closed_until(20.0) == 30.0
    breaker.settle(lost, 21.0, succeeded=None)
    assert breaker.closed_until(21.0) == 30.0


def test_a_failure_forgets_the_success_of_an_overdue_probe(breaker):
    late = breaker.admit(10.0)
    assert breaker.closed_until(20.0) == 30.0
    breaker.settle(late, 21.0, succeeded=True)
    fail(breaker, 22.0)
    assert breaker.until == 42.0
    breaker.settle(breaker.admit(42.0), 42.0, succeeded=True)
    assert breaker.state is BreakerState.HALF_OPEN


def test_behind_an_overdue_probe_of_a_host_the_next_one_is_due(host):
    slow = host.admit(1.0)
    assert host.closed_until(4.9) == 5.0, "it may still be connecting"
    assert host.closed_until(5.0) is None
    next_one = host.admit(5.0)
    assert host.admit(5.0) is None, "again one at a time"
    host.settle(next_one, 5.1, succeeded=True)
    assert host.state is BreakerState.CLOSED
    host.settle(slow, 13.0, succeeded=False)
    assert host.state is BreakerState.CLOSED, "it was sent before that"


def test_nobody_joins_a_probe_of_a_host_when_an_overdue_one_fails(host):
    lost = host.admit(1.0)
    assert host.admit(5.0) is not None
    host.settle(lost, 5.5, succeeded=False)
    assert host.closed_until(5.5) == 9.0, "not 7.5: until then the other one has its lease"
    assert host.admit(9.0) is not None
