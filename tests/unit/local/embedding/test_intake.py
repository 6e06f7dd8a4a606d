"""How requests get to whoever tokenises them."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest

from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.intake import Inbox, Intake
from hybrid_infer.local.embedding.texts import CHARACTERS_PER_SLICE, MOST_CHARACTERS_PER_SLICE

PATIENCE_SECONDS = 20.0


class Job:
    """As much of a job as is looked at."""

    def __init__(self, characters=10, *, is_short=True):
        self.texts = SimpleNamespace(num_characters=characters, is_short=is_short)


def intake(*, lanes_tokenize, ahead=100):
    return Intake(Window(), lambda: ahead, lanes_tokenize=lanes_tokenize)


def test_an_inbox_keeps_the_order_and_a_nudge_is_nothing_to_take():
    inbox, jobs = Inbox(), [Job(), Job(), Job()]
    inbox.post(jobs[0])
    inbox.nudge()
    inbox.wait()
    for one in jobs[1:]:
        inbox.post(one)
    assert inbox
    assert inbox.take() == jobs
    assert not inbox
    assert inbox.take() == []


def test_a_nudge_that_comes_before_the_wait_ends_it():
    inbox = Inbox()
    inbox.nudge()
    waiting = threading.Thread(target=inbox.wait, daemon=True)
    waiting.start()
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()
    assert inbox.take() == []


@pytest.mark.parametrize("lanes_tokenize", [True, False])
def test_short_requests_are_for_lanes_or_for_the_thread(lanes_tokenize):
    waiting, short, long = intake(lanes_tokenize=lanes_tokenize), Job(), Job(is_short=False)
    for one in (short, long):
        waiting.inbox.post(one)
    assert waiting.needs_thread
    taken = waiting.take_for_thread()
    assert taken == ([long] if lanes_tokenize else [short, long])
    assert waiting.take_short(has_tokenized=True) == ([short] if lanes_tokenize else [])
    assert not waiting.needs_thread


@pytest.mark.parametrize(
    ("lanes_tokenize", "most"), [(True, CHARACTERS_PER_SLICE), (False, MOST_CHARACTERS_PER_SLICE)]
)
def test_as_many_short_requests_are_taken_as_one_slice_holds(lanes_tokenize, most):
    waiting, jobs = intake(lanes_tokenize=lanes_tokenize), [Job(most // 4) for _ in range(6)]
    for one in jobs:
        waiting.add(one)
    take = partial(waiting.take_short, has_tokenized=False)
    if not lanes_tokenize:
        take = waiting.take_for_thread
    assert take() == jobs[:4]
    assert take() == jobs[4:]
    assert take() == []


def test_one_who_computes_tokenises_once_between_batches_while_enough_is_tokenised():
    waiting, short = intake(lanes_tokenize=True), Job()
    waiting.add(short)
    waiting._window.add("somebody", True, None, [100])
    assert not waiting.is_short_due
    assert waiting.take_short(has_tokenized=True) == []
    assert waiting.take_short(has_tokenized=False) == [short]
    waiting.add(short)
    waiting._window.discard("somebody")
    assert waiting.is_short_due
    assert waiting.take_short(has_tokenized=True) == [short]


def test_a_thread_that_does_not_compute_tokenises_whatever_is_short():
    waiting, short = intake(lanes_tokenize=False), Job()
    waiting.add(short)
    waiting._window.add("somebody", True, None, [100])
    assert not waiting.is_short_due
    assert waiting.take_short(has_tokenized=False) == []
    assert waiting.take_for_thread() == [short]


def test_a_nudge_is_no_request_that_somebody_might_wait_for():
    waiting = intake(lanes_tokenize=False)
    waiting.inbox.nudge()
    assert not waiting.inbox
    assert not waiting.needs_thread
    assert waiting.take_for_thread() == []


def test_who_leaves_says_whether_the_thread_had_it():
    for lanes_tokenize in (True, False):
        waiting, short, long = intake(lanes_tokenize=lanes_tokenize), Job(), Job(is_short=False)
        for one in (short, long):
            waiting.add(one)
        assert waiting.discard(short) is not lanes_tokenize
        assert waiting.discard(long)
        assert not waiting.discard(long)
