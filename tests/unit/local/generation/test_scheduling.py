"""Who joins the batch: order, bounds, nobody passed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.errors import InsufficientMemoryError, OverloadedError
from hybrid_infer.local.generation.scheduling import (
    MIN_PREFILL_TOKENS,
    Limits,
    Schedule,
    extent,
    most_places,
)


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
    schedule = Schedule(Limits(cache_tokens=1000))
    schedule.add("long", 700)
    schedule.add("short", 10)
    assert schedule.next([200], everyone) is None
    assert schedule.next([], everyone) == "long"


def test_what_would_not_fit_even_alone_is_refused_at_once():
    schedule = Schedule(Limits(cache_tokens=1000))
    with pytest.raises(InsufficientMemoryError, match="801 tokens, which take room for 1024"):
        schedule.add("huge", 801)


@given(st.integers(0, 1 << 20))
def test_the_longest_answer_that_fits_is_found(tokens):
    most = most_places(tokens)
    assert not most or extent(most) <= tokens
    assert extent(most + 1) > tokens


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
    # The one whose prompt is not tokenised yet is taken to be like the other.
    assert caught.value.retry_after == pytest.approx(20.0, rel=0.01)


def test_a_long_answer_takes_no_memory_from_short_ones():
    schedule = Schedule(Limits(cache_tokens=1024 + 4 * 256))
    for job, places in (("long", 1000), *((f"short {number}", 100) for number in range(5))):
        schedule.add(job, places)
    running = []
    while (job := schedule.next(running, everyone)) is not None:
        running.append(1000 if job == "long" else 100)
    assert len(running) == 5


def test_a_piece_of_a_prompt_takes_about_as_long_as_a_step_of_the_others():
    schedule = Schedule(Limits(prefill_tokens=256))
    assert schedule.prefill_size(1000, is_alone=False) == 256  # nothing is known yet
    schedule.measured_prefill(256, 0.256)
    schedule.measured(8, 0.1)
    assert schedule.prefill_size(1000, is_alone=True) == 256
    assert schedule.prefill_size(1000, is_alone=False) == 100
    assert schedule.prefill_size(1000, is_alone=False, is_mixed=True) == 200
    assert schedule.prefill_size(40, is_alone=False) == 40
    for _ in range(100):
        schedule.measured(8, 0.001)
    assert schedule.prefill_size(1000, is_alone=False) == MIN_PREFILL_TOKENS


@given(st.integers(1, 200_000))
def test_a_cache_has_two_sizes_an_octave(places):
    assert places <= extent(places)
    assert extent(places) in (256, extent(extent(places)))
    assert extent(places) <= max(256, 1.5 * places)


@given(st.lists(st.integers(1, 600), max_size=40), st.data())
def test_bounds_hold_and_everyone_is_served(sizes, data):
    limits = Limits(rows=4, cache_tokens=1500)
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
        assert sum(extent(sizes[other]) for other in running) <= limits.cache_tokens
    assert served == list(range(len(sizes)))
