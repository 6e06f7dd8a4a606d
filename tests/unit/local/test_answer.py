"""An answer is given once, whoever is faster, and everybody who waits for it hears of it."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest

from hybrid_infer.local.answer import Answer

PATIENCE_SECONDS = 20.0
ENDINGS = {
    "result": lambda answer: answer.give(1),
    "error": lambda answer: answer.fail(ValueError("broken")),
    "cancelled": lambda answer: answer.cancel(),
}


def outcome(answer, timeout=PATIENCE_SECONDS):
    try:
        return answer.result(timeout)
    except (ValueError, CancelledError) as error:
        return type(error)


EXPECTED = {"result": 1, "error": ValueError, "cancelled": CancelledError}


@pytest.mark.parametrize("first", ENDINGS)
@pytest.mark.parametrize("second", ENDINGS)
def test_the_first_end_counts(first, second):
    answer, told = Answer(), []
    answer.add_done_callback(told.append)
    assert not answer.done()
    assert ENDINGS[first](answer)
    assert answer.done()
    assert not ENDINGS[second](answer)
    answer.add_done_callback(told.append)
    assert told == [answer, answer]
    assert outcome(answer) == EXPECTED[first]


def test_who_settles_it_has_to_tell_those_who_wait():
    answer, told = Answer(), []
    answer.add_done_callback(told.append)
    assert answer.settle(1) == (told.append,)
    assert told == []
    assert answer.result(0) == 1
    assert answer.settle(2) is None
    assert not answer.cancel()
    assert answer.result(0) == 1


def test_it_has_left_before_anybody_is_told():
    class Waits(Answer):
        def _leave(self):
            order.append("left")

    order, answer = [], Waits()
    answer.add_done_callback(lambda _: order.append("told"))
    assert answer.give(1)
    assert not answer.give(2)
    assert order == ["left", "told"]


@pytest.mark.parametrize("end", ENDINGS)
def test_all_who_wait_are_woken(end):
    answer, entered = Answer(), threading.Barrier(9)

    def wait():
        entered.wait(PATIENCE_SECONDS)
        return outcome(answer)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait) for _ in range(8)]
        entered.wait(PATIENCE_SECONDS)
        ENDINGS[end](answer)
        assert [each.result(PATIENCE_SECONDS) for each in waiting] == [EXPECTED[end]] * 8


def test_one_of_many_threads_ends_it():
    for _ in range(50):
        answer, told, entered = Answer(), [], threading.Barrier(4)
        answer.add_done_callback(told.append)

        def give(number, answer=answer, entered=entered):
            entered.wait(PATIENCE_SECONDS)
            return answer.give(number)

        with ThreadPoolExecutor(4) as pool:
            given = list(pool.map(give, range(4)))
        assert given.count(True) == 1
        assert answer.result() == given.index(True)
        assert told == [answer]


@pytest.mark.parametrize("timeout", [0.0, -1, -0.5])
def test_who_does_not_want_to_wait_longer_can_come_again(timeout):
    answer = Answer()
    with pytest.raises(FutureTimeoutError):
        answer.result(timeout)
    answer.give(None)
    assert answer.result(0.0) is None


def test_a_callback_may_look_and_add_another():
    answer, told = Answer(), []
    answer.add_done_callback(
        lambda one: one.add_done_callback(lambda two: told.append(two.result()))
    )
    answer.give(5)
    assert told == [5]
