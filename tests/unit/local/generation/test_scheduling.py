"""Who joins the batch: order, bounds, nobody passed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.errors import InsufficientMemoryError, OverloadedError
from hybrid_infer.local.generation.scheduling import Limits, Schedule


def everyone(_job):
    return True


def test_requests_join_in_the_order_in_which_they_came():
    schedule = Schedule(Limits(rows=2))
    for job in "abc":
        schedule.add(job, 10)
    assert schedule.next([], everyone) == "a"
    assert schedule.next([10], everyone) == "b"
    assert schedule.next([10, 10], everyone) is None
    assert schedule.next([10], everyone) == "c"
    assert len(schedule) == 0


def test_a_long_request_is_not_passed_over():
    schedule = Schedule(Limits(cache_tokens=100))
    schedule.add("long", 60)
    schedule.add("short", 10)
    assert schedule.next([20], everyone) is None  # two rows of 60 places
    assert schedule.next([], everyone) == "long"


def test_what_would_not_fit_even_alone_is_refused_at_once():
    schedule = Schedule(Limits(cache_tokens=100))
    with pytest.raises(InsufficientMemoryError, match="101 tokens"):
        schedule.add("huge", 101)


def test_whoever_has_gone_is_forgotten():
    schedule = Schedule(Limits())
    schedule.add("gone", 10)
    schedule.add("here", 10)
    assert schedule.next([], lambda job: job == "here") == "here"


def test_a_full_queue_says_when_to_come_back():
    schedule = Schedule(Limits(waiting=2))
    schedule.check_room(1)
    schedule.add("a", 1000)
    for _ in range(200):
        schedule.measured(100, 1.0)
    with pytest.raises(OverloadedError) as caught:
        schedule.check_room(2)
    assert caught.value.retry_after == pytest.approx(10.0, rel=0.01)


def test_a_long_prompt_is_computed_in_pieces_beside_others():
    schedule = Schedule(Limits(prefill_tokens=256))
    assert schedule.prefill_size(1000, is_alone=True) == 1000
    assert schedule.prefill_size(1000, is_alone=False) == 256
    assert schedule.prefill_size(100, is_alone=False) == 100


@given(st.lists(st.integers(1, 60), max_size=40), st.data())
def test_bounds_hold_and_everyone_is_served(sizes, data):
    limits = Limits(rows=4, cache_tokens=60)
    schedule = Schedule(limits)
    for number, places in enumerate(sizes):
        schedule.add(number, places)
    running, served = [], []
    while schedule or running:
        job = schedule.next([sizes[other] for other in running], everyone)
        if job is None:
            running.remove(data.draw(st.sampled_from(running)))
            continue
        running.append(job)
        served.append(job)
        assert len(running) <= limits.rows
        assert len(running) * max(sizes[other] for other in running) <= limits.cache_tokens
    assert served == list(range(len(sizes)))
