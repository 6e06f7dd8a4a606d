"""What a fault counts for: repeated, it opens the breaker that its row names, or none at all."""

from __future__ import annotations

import pytest
from fault_table.callers import CALLERS, call, status
from fault_table.checks import assert_within
from fault_table.table import load_table
from fault_table.world import join_canaries

MODEL_OPENS = ((10.0, 12.0), (20.0, 24.0))
HOST_OPENS = ((1.0, 1.2), (2.0, 2.4))
FAILURES = range(5, 7)  # five in a row, or half of ten and more
NUM_CALLS = 8


def lasting():
    """Variants that fail as long as they are asked, each with one caller."""
    for variant in load_table().variants():
        steps = variant.steps
        is_lasting = variant.place != "fake" or (
            steps and all(step.get("times") == "forever" for step in steps)
        )
        is_the_remote_s = variant.place not in ("broken_local", "another_model")
        if is_lasting and variant.with_local and is_the_remote_s:
            surface = next(iter(variant.with_local))
            yield pytest.param(variant, surface, CALLERS[surface][0], id=variant.id)


@pytest.mark.parametrize(("variant", "surface", "caller"), list(lasting()))
def test_what_a_fault_counts_for(world, count, variant, surface, caller):
    expected = variant.with_local[surface]
    check = {None: counts_for_nobody, "model": counts_for_model, "host": counts_for_host}
    with world.case(variant) as case:
        try:
            case.prepare_remote()
            for _ in range(variant.before):
                assert call(caller, case, route=None).error is None
                join_canaries()
            case.break_remote()
            check[variant.counts](case, caller, expected)
        finally:
            count(variant.row_id, case.calls)
        assert (case.calls.num_lost, case.calls.num_duplicated) == (0, 0)


def counts_for_nobody(case, caller, expected):
    for _ in range(NUM_CALLS):
        call(caller, case, route=None)
        assert "open" not in [closure["state"] for closure in status(caller, case)]
        if expected.closed is not None:
            case.world.clock.advance(expected.closed.seconds[1] + 1.0)


def counts_for_model(case, caller, expected):
    num_calls = 0
    while not status(caller, case):
        assert num_calls < FAILURES[-1], "the breaker does not open"
        assert call(caller, case, route=None).error is None or expected.error
        num_calls += 1
    assert num_calls in FAILURES
    opens_and_closes(case, caller, "model", MODEL_OPENS)
    if case.mend_remote():
        for _ in range(2):
            assert call(caller, case, route=None).route.backend == "remote"
        assert status(caller, case) == []


def counts_for_host(case, caller, expected):
    assert call(caller, case, route=None).error is None
    opens_and_closes(case, caller, "host", HOST_OPENS)
    if case.mend_remote():
        assert call(caller, case, route=None).route.backend == "remote"
        assert status(caller, case) == []


def opens_and_closes(case, caller, scope, opens):
    """Open for the first time, a probe that fails, and for twice as long."""
    for number, bounds in enumerate(opens):
        (closure,) = status(caller, case)
        assert (closure["scope"], closure["state"]) == (scope, "open")
        low = bounds[0] - (1.0 if case.variant.impatience else 0.0)
        assert_within(closure["opens_in_seconds"], (low, bounds[1]))
        sent = case.num_requests
        outcome = call(caller, case, route=None)
        assert outcome.error is None, outcome.error
        assert outcome.route.backend == "local"
        assert case.num_requests == sent, "sent while open"
        case.world.clock.advance(bounds[1] + 0.1)
        assert status(caller, case) == []
        if number == 0:
            call(caller, case, route=None)
            if case.variant.place == "fake":
                assert case.num_requests == sent + 1, "one probe"
