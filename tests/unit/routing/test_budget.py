"""What retries and hedges cost: counted out, with the bounds of both purses."""

import pytest

from hybrid_infer.routing.budget import CAPACITY, HedgeBudget, RetryBudget


def hedges(budget, calls):
    return sum(budget.take() for _ in range(calls))


def test_no_retry_at_half_a_purse_and_ten_successes_pay_for_one():
    budget = RetryBudget()
    assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
    budget.succeeded()
    assert [budget.take() for _ in range(2)] == [True, False]
    for _ in range(9):
        budget.succeeded()
        assert not budget.take()
    for _ in range(2):
        budget.succeeded()
    assert budget.take()


def test_a_purse_is_never_fuller_than_full():
    budget = RetryBudget()
    for _ in range(100):
        budget.succeeded()
    assert budget.tokens == CAPACITY
    assert budget.take()
    budget.give_back()
    budget.give_back()
    assert budget.tokens == CAPACITY


def test_a_retry_that_is_given_back_can_be_made_by_another():
    budget = RetryBudget()
    while budget.take():
        pass
    budget.give_back()
    assert [budget.take() for _ in range(2)] == [True, False]


def test_one_call_in_twenty_may_be_hedged():
    budget = HedgeBudget()
    assert hedges(budget, 19) == 0
    assert hedges(budget, 1) == 1
    assert hedges(budget, 1000) == pytest.approx(50, abs=1)


def test_hedges_that_were_not_needed_are_saved_but_no_more_than_three():
    budget = HedgeBudget()
    assert hedges(budget, 20) == 1
    budget.give_back()
    assert hedges(budget, 10) == 1, "one was saved, and no more than one"
    for _ in range(10):
        budget.give_back()
    assert hedges(budget, 10) == 3
