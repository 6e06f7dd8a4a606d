"""Schedules under a virtual clock: spread, not burst; learned from headers; gentle after a limit."""

import itertools

import pytest

from hybrid_infer.datatypes.limits import RateLimitState
from hybrid_infer.routing.pacing import LOOK_AGAIN_SECONDS, Pace, Pacer, Pacing


def sent(pacer, now, until, step=0.01):
    """The moments at which a caller that is always ready gets through."""
    moments = []
    while now < until:
        if pacer.start(now):
            pacer.finish()
            moments.append(now)
        now = round(now + step, 6)
    return moments


def test_nothing_set_and_nothing_learned_never_waits():
    pacer = Pacer(Pace())
    assert all(pacer.start(5.0) for _ in range(1000))
    assert pacer.wait_seconds(5.0) == 0.0


def test_requests_per_minute_are_spread():
    moments = sent(Pacer(Pace(requests_per_minute=60)), 100.0, 110.0)
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    assert len(moments) == 10
    assert min(gaps) >= 0.99


def test_a_fast_pace_may_burst_for_a_second_and_no_more():
    pacer = Pacer(Pace(requests_per_minute=600))
    burst = sum(pacer.start(50.0) for _ in range(100))
    assert burst == 10
    assert 0.0 < pacer.wait_seconds(50.0) <= 0.1001
    assert len(sent(Pacer(Pace(requests_per_minute=600)), 0.0, 60.0)) <= 610


def test_concurrency_is_bounded_and_freed():
    pacer = Pacer(Pace(max_concurrency=2))
    assert [pacer.start(0.0) for _ in range(3)] == [True, True, False]
    assert pacer.wait_seconds(0.0) == LOOK_AGAIN_SECONDS
    pacer.finish()
    assert pacer.start(0.0)


def test_nothing_left_closes_until_the_reset():
    pacer = Pacer(Pace())
    pacer.learn(RateLimitState(remaining=0, reset_seconds=55.0), 10.0)
    assert pacer.wait_seconds(10.0) == 55.0
    pacer.learn(RateLimitState(remaining=0, reset_seconds=5.0), 10.0)
    assert pacer.wait_seconds(10.0) == 55.0, "never shortened"
    assert pacer.start(65.0)


def test_little_left_is_spread_over_the_rest_of_the_window():
    pacer = Pacer(Pace())
    pacer.learn(RateLimitState(remaining=20, reset_seconds=40.0, limit=100), 0.0)
    moments = sent(pacer, 0.0, 39.0)
    assert len(moments) == 20
    assert min(b - a for a, b in itertools.pairwise(moments)) >= 1.9
    assert len(sent(pacer, 40.5, 41.0)) > 20, "the next window is free again"


@pytest.mark.parametrize(
    "state",
    [
        RateLimitState(remaining=26, reset_seconds=40.0, limit=100),
        RateLimitState(remaining=11, reset_seconds=40.0),
        RateLimitState(remaining=None, reset_seconds=40.0),
        RateLimitState(remaining=0, reset_seconds=None),
        RateLimitState(remaining=0, reset_seconds=0.0),
    ],
)
def test_plenty_or_no_news_changes_nothing(state):
    pacer = Pacer(Pace())
    pacer.learn(state, 0.0)
    assert len(sent(pacer, 0.0, 1.0)) > 90


def test_plenty_after_scarcity_lifts_it():
    pacer = Pacer(Pace())
    pacer.learn(RateLimitState(remaining=1, reset_seconds=40.0, limit=100), 0.0)
    pacer.learn(RateLimitState(remaining=90, reset_seconds=40.0, limit=100), 1.0)
    assert len(sent(pacer, 1.0, 2.0)) > 90


def test_a_window_is_believed_up_to_an_hour():
    pacer = Pacer(Pace())
    pacer.learn(RateLimitState(remaining=0, reset_seconds=1e9), 0.0)
    assert pacer.wait_seconds(0.0) == 3600.0


def test_after_a_limit_requests_come_back_gently():
    pacer = Pacer(Pace())
    pacer.limited(100.0)
    moments = sent(pacer, 100.0, 107.0, step=0.005)
    per_second = [sum(100 + s <= m < 101 + s for m in moments) for s in range(7)]
    assert per_second[0] == 1
    assert all(a <= b for a, b in itertools.pairwise(per_second))
    assert per_second[2] in (4, 5)
    assert per_second[6] > 150, "then freely"


def test_reset_keeps_what_the_user_set():
    pacing = Pacing({"a": Pace(requests_per_minute=60)})
    a, b = pacing.of("a"), pacing.of("b")
    assert pacing.of("a") is a
    for pacer in (a, b):
        pacer.learn(RateLimitState(remaining=0, reset_seconds=100.0), 0.0)
    pacing.reset("b")
    assert (a.wait_seconds(0.0), b.wait_seconds(0.0)) == (100.0, 0.0)
    pacing.reset()
    assert a.start(0.0)
    assert not a.start(0.0)


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        (RateLimitState(remaining=25, reset_seconds=50.0, limit=100), 2.0),
        (RateLimitState(remaining=10, reset_seconds=40.0), 4.0),
        (RateLimitState(remaining=1, reset_seconds=1e9, limit=100), 3600.0),
    ],
)
def test_a_quarter_or_ten_left_are_few(state, seconds):
    pacer = Pacer(Pace())
    pacer.learn(state, 5.0)
    assert pacer.wait_seconds(5.0) == 0.0, "the next one may go, but not the one after it"
    assert pacer.start(5.0)
    assert pacer.wait_seconds(5.0) == seconds


@pytest.mark.parametrize(("remaining", "gap"), [(20, 2.0), (80, 1.0)])
def test_the_slower_of_the_set_and_the_learned_pace_rules(remaining, gap):
    pacer = Pacer(Pace(requests_per_minute=60))
    pacer.learn(RateLimitState(remaining=remaining, reset_seconds=40.0, limit=400), 0.0)
    assert pacer.start(0.0)
    assert pacer.wait_seconds(0.0) == gap


def test_time_that_went_unused_is_not_saved_up():
    pacer = Pacer(Pace(requests_per_minute=60))
    assert pacer.start(0.0)
    assert pacer.start(100.0)
    assert pacer.wait_seconds(100.0) == 1.0


def test_a_learned_pace_has_no_bursts():
    pacer = Pacer(Pace())
    pacer.learn(RateLimitState(remaining=100, reset_seconds=10.0, limit=400), 0.0)
    assert [pacer.start(0.0) for _ in range(3)] == [True, False, False]
    assert pacer.wait_seconds(0.0) == pytest.approx(0.1)


def test_a_set_pace_bursts_by_what_one_second_allows():
    pacer = Pacer(Pace(requests_per_minute=120))
    assert [pacer.start(10.0) for _ in range(3)] == [True, True, False]
    assert pacer.wait_seconds(10.0) == pytest.approx(0.5)


def test_a_refusal_takes_no_slot_and_moves_nothing():
    pacer = Pacer(Pace(requests_per_minute=60, max_concurrency=2))
    assert pacer.start(0.0)
    assert not any(pacer.start(0.5) for _ in range(10))
    assert pacer.wait_seconds(0.5) == 0.5
    assert pacer.start(1.0)
    assert pacer.wait_seconds(1.0) == LOOK_AGAIN_SECONDS


def test_a_later_limit_moves_the_gentle_start_and_an_earlier_one_does_not():
    pacer = Pacer(Pace())
    pacer.limited(100.0)
    pacer.limited(90.0)
    assert len(sent(pacer, 100.0, 101.0)) == 1
    pacer.limited(103.0)
    assert len(sent(pacer, 103.0, 104.0)) == 1


def test_a_gentle_start_ends_after_six_seconds():
    pacer = Pacer(Pace())
    pacer.limited(100.0)
    assert pacer.start(105.99)
    assert pacer.wait_seconds(105.99) == pytest.approx(1 / 32)
    assert [pacer.start(106.0) for _ in range(3)] == [True] * 3, "and then it is over"


def test_reset_forgets_scarcity_limits_and_what_is_left_to_wait():
    pacer = Pacer(Pace())
    pacer.learn(RateLimitState(remaining=1, reset_seconds=40.0, limit=100), 0.0)
    assert pacer.start(0.0)
    pacer.limited(0.0)
    pacer.reset()
    assert [pacer.start(0.0) for _ in range(3)] == [True] * 3
    assert len(sent(pacer, 0.0, 1.0)) > 90
