"""Every row of faults.yaml that a remote can cause, on every surface, with and without a local copy."""

from __future__ import annotations

import math

import pytest
from fault_table.bodies import CANARY
from fault_table.callers import DEADLINE_SECONDS, call, scenes, status
from fault_table.checks import assert_within, check_closed, check_outcome
from fault_table.table import Variant, load_table
from fault_table.world import join_canaries

TABLE = load_table()
AFTERWARDS_SECONDS = 1.0


def repeats(config: pytest.Config, variant: Variant) -> int:
    if variant.sweep is not None:
        return 1  # that is many calls already
    (row,) = (row for row in TABLE.rows if row.id == variant.row_id)
    return math.ceil(config.getoption("--fault-calls", 1) / len(row.variants))


@pytest.mark.parametrize(
    ("variant", "mode", "surface", "caller"),
    [pytest.param(*scene, id=scene.id) for scene in scenes(TABLE)],
)
def test_a_fault(world, count, caplog, request, variant, mode, surface, caller):
    caplog.set_level(0)
    expected = getattr(variant, mode)[surface]
    for _ in range(repeats(request.config, variant)):
        with world.case(variant) as case:
            try:
                run(case, caller, expected, None if mode == "with_local" else "remote")
            finally:
                count(variant.row_id, case.calls)
            calls = case.calls
            assert (calls.num_lost, calls.num_duplicated, calls.num_late) == (0, 0, 0)
    assert CANARY not in caplog.text


def run(case, caller, expected, route):
    case.prepare_remote()
    for _ in range(case.variant.before):
        assert call(caller, case, route=route).error is None
        join_canaries()
    if case.variant.sweep is not None:
        sweep(case, caller, expected, route)
        return
    case.break_remote()
    check_call(case, caller, expected, route)
    check_next(case, caller, expected, route)


def sweep(case, caller, expected, route):
    """The same fault at every byte but the first: without one, a kept connection was merely old."""
    number, stride, most = case.variant.sweep
    assert call(caller, case, route="remote").error is None
    (request,) = case.world.fake.wait_for(1, finished=True)
    for place in range(1, most or request.bytes_sent, stride):
        case.forget()
        case.break_remote(**{number: place})
        check_call(case, caller, expected, route)


def check_call(case, caller, expected, route):
    variant, world = case.variant, case.world
    before, world.clock.slept = case.num_requests, 0.0
    outcome = call(caller, case, route=route)
    check_outcome(world, outcome, expected, is_requested=route is not None)
    assert_within(case.num_requests - before, expected.requests)
    assert_within(world.clock.slept, expected.waited)
    check_closed(status(caller, case), expected.closed, is_timed=bool(variant.impatience))
    if variant.place != "two_remotes":
        assert world.elsewhere.ledger == [], "the key went elsewhere"


def check_next(case, caller, expected, route):
    """While it is closed nothing is sent; afterwards the remote is asked again, and answers."""
    sent, closed = case.num_requests, expected.closed
    if route is not None:
        if closed is not None and closed.seconds[0] > DEADLINE_SECONDS:
            check_refused(case, caller, expected, route)
            assert case.num_requests == sent, "sent while closed"
        return
    if closed is not None:
        again = call(caller, case, route=None)
        assert again.error is None
        assert again.route.backend == "local"
        assert again.route.reason == closed.reason
        assert case.num_requests == sent, "sent while closed"
        case.world.clock.advance(closed.seconds[1] + AFTERWARDS_SECONDS)
    if case.mend_remote():
        mended = call(caller, case, route=None)
        assert mended.error is None
        assert mended.route.backend == "remote", mended.route
        if "canary" in case.variant.settings.get("routing", {}):
            join_canaries()  # that model is still another one, which is noticed again
            check_closed(status(caller, case), closed)
        else:
            assert case.num_requests == 1
            check_closed(status(caller, case), None)


def check_refused(case, caller, expected, route):
    """The same error at once, and when to come back."""
    slept = case.world.clock.slept
    again = call(caller, case, route=route)
    assert type(again.error).__name__ == expected.error
    assert again.error.attempts == ()
    assert_within(again.error.retry_after, expected.closed.seconds)
    assert case.world.clock.slept == slept
