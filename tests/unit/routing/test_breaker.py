"""One breaker under a virtual clock: when it opens, for how long, and who may try first."""

import random

import pytest

from hybrid_infer.routing.breaker import Breaker, BreakerState
from hybrid_infer.routing.health import HOST_RULE, MODEL_RULE


class NoJitter(random.Random):
    def random(self):
        return 0.0


@pytest.fixture
def breaker():
    return Breaker(MODEL_RULE, NoJitter())


def fail(breaker, now, times=1):
    for _ in range(times):
        breaker.settle(breaker.admit(now), now, succeeded=False)


def succeed(breaker, now, times=1):
    for _ in range(times):
        breaker.settle(breaker.admit(now), now, succeeded=True)


def opened(breaker, now=0.0):
    fail(breaker, now, MODEL_RULE.consecutive_failures)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_five_failures_in_a_row_open_it_and_four_do_not(breaker):
    fail(breaker, 0.0, 4)
    assert breaker.closed_until(0.0) is None
    fail(breaker, 0.0)
    assert breaker.state is BreakerState.OPEN
    assert breaker.closed_until(0.0) == 10.0
    assert breaker.admit(9.999) is None


def test_a_success_between_them_starts_the_count_again(breaker):
    fail(breaker, 0.0, 4)
    succeed(breaker, 0.0)
    fail(breaker, 0.0, 4)
    assert breaker.state is BreakerState.CLOSED


def test_half_of_the_last_twenty_open_it(breaker):
    for _ in range(4):
        succeed(breaker, 0.0)
        fail(breaker, 0.0)
    assert breaker.state is BreakerState.CLOSED, "eight results are too few to judge"
    succeed(breaker, 0.0)
    fail(breaker, 0.0)
    assert breaker.state is BreakerState.OPEN


def test_less_than_half_does_not(breaker):
    for _ in range(30):
        succeed(breaker, 0.0, 2)
        fail(breaker, 0.0)
    assert breaker.state is BreakerState.CLOSED


def test_results_of_more_than_a_minute_ago_do_not_count(breaker):
    for _ in range(9):
        fail(breaker, 0.0)
        succeed(breaker, 0.0)
        breaker.settle(breaker.admit(0.0), 0.0, succeeded=True)
    fail(breaker, 60.5, 3)
    assert breaker.state is BreakerState.CLOSED
    old = Breaker(MODEL_RULE, NoJitter())
    for _ in range(4):
        fail(old, 0.0)
        succeed(old, 0.0)
    fail(old, 60.5)
    succeed(old, 60.5)
    assert old.state is BreakerState.CLOSED


@pytest.mark.parametrize(("seconds", "state"), [(60.0, "open"), (60.001, "closed")])
def test_a_result_counts_for_one_minute(breaker, seconds, state):
    for _ in range(4):
        fail(breaker, 1000.0)
        succeed(breaker, 1000.0)
    succeed(breaker, 1000.0 + seconds)
    fail(breaker, 1000.0 + seconds)
    assert breaker.state == state


def test_only_the_last_twenty_results_are_judged(breaker):
    succeed(breaker, 0.0, 40)
    for _ in range(9):
        fail(breaker, 0.0)
        succeed(breaker, 0.0)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 0.0)
    assert breaker.state is BreakerState.OPEN, "ten of twenty, though eleven of sixty"


def test_a_host_opens_at_the_first_failure_for_a_second_then_longer():
    host = Breaker(HOST_RULE, NoJitter())
    now, lengths = 0.0, []
    for _ in range(8):
        fail(host, now)
        lengths.append(host.until - now)
        now = host.until
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    succeed(host, now)
    assert host.state is BreakerState.CLOSED


def test_each_opening_in_a_row_lasts_twice_as_long_up_to_five_minutes(breaker):
    opened(breaker)
    lengths, now = [], 0.0
    for _ in range(7):
        lengths.append(breaker.until - now)
        now = breaker.until
        fail(breaker, now)
    assert lengths == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_five_quiet_minutes_make_it_forget(breaker):
    opened(breaker)
    succeed(breaker, 10.0, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 311.0, 5)
    assert breaker.until == 321.0
    again = opened(Breaker(MODEL_RULE, NoJitter()))
    succeed(again, 10.0, 2)
    fail(again, 310.0, 5)
    assert again.until == 330.0


def test_jitter_lengthens_by_up_to_a_fifth():
    lengths = [opened(Breaker(MODEL_RULE, random.Random(seed))).until for seed in range(200)]
    assert min(lengths) >= 10.0
    assert max(lengths) <= 12.0
    assert max(lengths) - min(lengths) > 1.5


def test_one_probe_at_a_time_and_two_successes_close(breaker):
    opened(breaker)
    probe = breaker.admit(10.0)
    assert probe is not None
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(10.0) is None
    assert breaker.closed_until(10.0) == 20.0
    breaker.settle(probe, 11.0, succeeded=True)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.closed_until(11.0) is None
    succeed(breaker, 11.0)
    assert breaker.state is BreakerState.CLOSED
    assert [breaker.admit(11.0) is None for _ in range(3)] == [False] * 3


def test_a_failed_probe_opens_it_again_and_its_first_success_is_forgotten(breaker):
    opened(breaker)
    succeed(breaker, 10.0)
    fail(breaker, 11.0)
    assert breaker.until == 31.0
    succeed(breaker, 31.0)
    assert breaker.state is BreakerState.HALF_OPEN, "two in a row are needed, afresh"


def test_a_probe_that_says_nothing_only_ends_its_lease(breaker):
    opened(breaker)
    breaker.settle(breaker.admit(10.0), 12.0, succeeded=None)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(12.0) is not None
    assert breaker.admit(12.0) is None


def test_a_lease_always_ends(breaker):
    opened(breaker)
    lost = breaker.admit(10.0, lease_seconds=3.0)
    assert breaker.closed_until(12.9) == 13.0
    assert breaker.closed_until(13.0) == 23.0, "as long as the last time, from its end"
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit(22.9) is None
    assert breaker.admit(23.0) is not None, "though the lost one was never given back"
    assert breaker.admit(23.0) is None
    breaker.settle(lost, 24.0, succeeded=None)
    assert breaker.admit(24.0) is None, "the lost one ends no lease but its own"


def test_a_lease_is_never_longer_than_ten_seconds(breaker):
    opened(breaker)
    breaker.admit(10.0, lease_seconds=500.0)
    assert breaker.closed_until(19.9) == 20.0


def test_late_results_of_an_old_period_change_nothing(breaker):
    slow = [breaker.admit(0.0) for _ in range(6)]
    opened(breaker)
    for permit in slow[:3]:
        breaker.settle(permit, 9.0, succeeded=False)
    assert breaker.until == 10.0
    succeed(breaker, 10.0, 2)
    for permit in slow[3:]:
        breaker.settle(permit, 11.0, succeeded=False)
    fail(breaker, 11.0, 4)
    assert breaker.state is BreakerState.CLOSED


def test_no_period_ever_takes_in_a_result_of_an_earlier_one(breaker):
    now, old = 1000.0, []
    for _ in range(6):
        old += [breaker.admit(now) for _ in range(20)]
        fail(breaker, now, 5)
        now = breaker.until
        lost = breaker.admit(now)
        now += 10.0
        assert breaker.closed_until(now) is not None, "its probe was lost, so it opened again"
        now = breaker.until
        fail(breaker, now)
        now = breaker.until
        old.append(lost)
        for permit in old:
            breaker.settle(permit, now, succeeded=False)
        assert breaker.closed_until(now) is None
        succeed(breaker, now, 1)
        for permit in old:
            breaker.settle(permit, now, succeeded=True)
        assert breaker.state is BreakerState.HALF_OPEN
        succeed(breaker, now, 1)
        for permit in old:
            breaker.settle(permit, now, succeeded=False)
        assert breaker.state is BreakerState.CLOSED


def test_until_is_never_shortened(breaker):
    opened(breaker, 100.0)
    breaker.trip(50.0)
    assert breaker.until == 110.0
