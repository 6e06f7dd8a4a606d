"""Compares what happened with what faults.yaml expects; each check says what it saw."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

import numpy as np

from fault_table.bodies import CANARY
from fault_table.callers import Outcome
from fault_table.expected import Closed, Expected, Range
from fault_table.world import MODEL, World
from hybrid_infer.errors import AllTargetsFailedError, HybridInferError, StreamInterruptedError

ROUNDING_SECONDS = 1e-6
TIMED_SECONDS = 2.0  # what a running clock may have moved on between two looks
RETRYABLE = frozenset({
    "RateLimitError", "OverloadedError", "ModelLoadingError", "RemoteServerError",
    "RemoteProtocolError", "APIConnectionError", "APITimeoutError", "DeadlineExceededError",
    "StreamInterruptedError", "AllTargetsFailedError",
})  # fmt: skip


def check_outcome(
    world: World, outcome: Outcome, expected: Expected, *, is_requested: bool
) -> None:
    """The caller's side: an answer of the right side, or the right error."""
    if expected.error is not None:
        assert outcome.error is not None, f"served by {outcome.route}"
        check_error(outcome.error, expected)
        if isinstance(outcome.error, StreamInterruptedError):
            assert outcome.error.partial == outcome.text
            assert world.remote_text.startswith(outcome.text)
        return
    if outcome.error is not None:
        raise outcome.error
    assert outcome.route is not None
    check_answer(world, outcome, expected.answer)
    backend = "remote" if expected.answer == "remote" else "local"
    assert outcome.route.backend == backend, outcome.route
    reason = (expected.reason or "primary") if not is_requested else "requested"
    assert outcome.route.reason == reason, outcome.route
    assert outcome.route.attempts[-1].reason is None
    failed = {attempt.reason for attempt in outcome.route.attempts[:-1]}
    assert failed <= {expected.reason}, outcome.route.attempts


def check_answer(world: World, outcome: Outcome, answer: str | None) -> None:
    """The answer itself is wholly that side's, or the one side's behind the other's."""
    if outcome.result is not None and hasattr(outcome.result, "vectors"):
        wanted = world.vectors(str(answer), normalize=outcome.result.space.normalize)
        np.testing.assert_allclose(outcome.result.vectors, wanted, atol=1e-5)
        assert outcome.result.space.repo.endswith("all-MiniLM-L6-v2"), MODEL
    elif answer == "joined":
        assert outcome.first_backend == "remote"
        assert outcome.text
        assert outcome.text.startswith(world.remote_text[:4])
        assert len(outcome.finish_reasons) == 1
    else:
        assert outcome.text == (world.remote_text if answer == "remote" else world.local_text)


def check_error(error: HybridInferError, expected: Expected) -> None:
    """Class, advice, attempts, and not a word of the key."""
    assert type(error).__name__ == expected.error, repr(error)
    assert error.retryable is (expected.error in RETRYABLE)
    if expected.retry_after is not None:
        assert error.retry_after is not None
        assert_within(error.retry_after, expected.retry_after)
    if expected.reason is not None:
        assert {attempt.reason for attempt in error.attempts} <= {expected.reason}, error.attempts
    if isinstance(error, AllTargetsFailedError):
        assert len(error.causes) > 1
        assert error.__cause__ is error.causes[0]
    said = "\n".join([str(error), *getattr(error, "__notes__", ())])
    for words in expected.notes:
        assert words in said
    assert_secret(error)


def assert_secret(error: HybridInferError) -> None:
    """The key is in no text that the error, or anything chained to it, can become."""
    assert CANARY.encode() not in pickle.dumps(error)
    todo: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while todo:
        one = todo.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        todo += [one.__cause__, one.__context__]
        assert isinstance(one, HybridInferError), f"a foreign {type(one).__name__} is reachable"
        assert CANARY not in f"{one!r} {one} {vars(one)}"
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert CANARY not in "".join(report.format())


def check_closed(
    closed: list[dict[str, Any]], expected: Closed | None, *, is_timed: bool = False
) -> None:
    """What the client says is closed, until when, and why."""
    if expected is None:
        assert closed == []
        return
    (one,) = closed
    assert (one["scope"], one["state"]) == (expected.scope, expected.state), one
    assert one["reason"] == expected.reason, one
    low, high = expected.seconds
    assert_within(one["opens_in_seconds"], (low - TIMED_SECONDS if is_timed else low, high))
    assert CANARY not in repr(one)


def assert_within(value: float, bounds: Range) -> None:
    """`value` lies in `bounds`, the ends included."""
    low, high = bounds
    assert low - ROUNDING_SECONDS <= value <= high + ROUNDING_SECONDS, f"{value} not in {bounds}"
