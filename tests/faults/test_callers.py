"""Rows whose fault is the caller's side: what is given, cancelled, closed, or where it is called."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from fault_table.callers import CALLERS, call, status
from fault_table.table import load_table
from fault_table.world import MODEL, PROMPT, TEXTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_infer import ContextLengthError, InvalidRequestError, Reason
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.local.waiting import wait_async
from hybrid_infer.routing.pacing import Pace, Pacing
from hybrid_infer.testing import Reply

DAY_SECONDS = 86_400.0
LONG = "word " * 10_000


@pytest.fixture(scope="module")
def healthy():
    """The variant that breaks nothing of itself: a connection that was closed meanwhile."""
    return next(v for v in load_table().variants() if v.row_id == "R20")


@pytest.fixture
def case(world, healthy):
    with world.case(healthy) as made:
        yield made


def run(case, caller, method, *arguments, **options):
    """One call of any method on a blocking or an awaited client."""
    client = case.aio if caller == "async" else case.sync
    made = getattr(client, method)(*arguments, model=MODEL, **options)
    return case.world.runner.run(made) if caller == "async" else made


@pytest.mark.parametrize("caller", ["sync", "async"])
@pytest.mark.parametrize("route", ["remote", "local"])
def test_an_over_long_text_is_cut_and_counted_or_refused(case, caller, route):
    result = run(case, caller, "embed", ["short", LONG], route=route)
    assert result.usage.truncations == 1 or route == "remote"
    with pytest.raises(ContextLengthError):
        run(case, caller, "embed", ["short", LONG], route=route, truncate=False)
    assert status(caller, case) == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("caller", ["sync", "async"])
def test_an_over_long_prompt_is_the_caller_s_mistake(case, caller, stream):
    with pytest.raises(ContextLengthError):
        run(case, caller, "chat_completion", LONG, route="local", stream=stream)


@pytest.mark.parametrize("caller", ["sync", "async"])
def test_no_texts_ask_nobody(case, caller):
    result = run(case, caller, "embed", [])
    assert result.vectors.shape == (0, 384)
    assert case.num_requests == 0


@pytest.mark.parametrize("caller", ["sync", "async"])
@pytest.mark.parametrize("route", ["remote", "local"])
def test_empty_texts_have_vectors_on_both_sides(case, caller, route):
    vectors = run(case, caller, "embed", ["", " ", "\n\t"], route=route).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


NO_TEXTS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.lists(st.integers()),
    st.dictionaries(st.text(), st.text()), st.just("a lone \ud800 surrogate"),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(value=NO_TEXTS, index=st.integers(0, 3))
def test_what_is_no_text_is_refused_by_its_index(case, value, index):
    texts = [*TEXTS[:index], value, *TEXTS[index:]]
    for caller in ("sync", "async"):
        for route in (None, "remote", "local"):
            with pytest.raises(InvalidRequestError) as caught:
                run(case, caller, "embed", texts, route=route)
            assert caught.value.argument == f"texts[{index}]"
    assert case.num_requests == 0


async def cancelled(case, ask):
    """Cancel `ask` as soon as its request has arrived."""
    arrived = case.num_requests + 1
    task = asyncio.create_task(ask())
    await asyncio.to_thread(case.world.fake.wait_for, arrived)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


def embed(case):
    return case.aio.embed(TEXTS, model=MODEL)


async def streamed(case):
    async with await case.aio.chat_completion(PROMPT, model=MODEL, stream=True) as stream:
        return [chunk async for chunk in stream]


@pytest.mark.parametrize("ask", [embed, streamed])
@pytest.mark.parametrize("stall", [{"stall_after_bytes": 0}, {"stall_after_bytes": 150}])
def test_a_cancelled_call_gives_everything_back(case, ask, stall):
    session = case.aio._session
    session.pacing = Pacing({"huggingface": Pace(max_concurrency=1)})
    case.world.fake.enqueue(Reply(**stall))
    case.world.runner.run(cancelled(case, lambda: ask(case)))
    (request,) = case.world.fake.wait_for(1, finished=True)  # its connection is closed
    assert request.finished
    assert status("async", case) == []
    assert session.pacing.of("huggingface").wait_seconds(session.clock()) == 0.0
    assert call("async", case, route=None).route.reason is Reason.PRIMARY


def test_a_cancelled_probe_gives_its_lease_back(case):
    case.world.fake.enqueue(Reply(status=500), times=5)
    for _ in range(5):
        call("async", case, route=None)
    assert status("async", case)[0]["state"] == "open"
    case.world.clock.advance(13.0)
    case.world.fake.enqueue(Reply(stall_after_bytes=0))
    case.world.runner.run(cancelled(case, lambda: embed(case)))
    assert status("async", case) == [], "the next call may probe"
    assert call("async", case, route=None).route.backend == "remote"


def test_a_loop_that_is_closed_early_is_left_alone(caplog):
    future: Future[str] = Future()
    abandoned = []
    future.cancel = lambda: abandoned.append(True)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(wait_async(future, Deadline(60.0)))
    loop.call_soon(loop.stop)
    loop.run_forever()  # as far as the task's first wait
    waiting._log_destroy_pending = False  # asyncio's own complaint about whoever does this
    loop.close()
    future.set_result("too late")
    assert caplog.records == []
    del waiting, future, loop
    gc.collect()  # what a destroyed task raises is a warning, and so an error here
    assert abandoned == [True]


@pytest.mark.parametrize("route", ["remote", "local"])
def test_a_blocking_call_inside_a_running_loop(case, route):
    async def main():
        return case.sync.embed(TEXTS, model=MODEL, route=route)

    assert case.world.runner.run(main()).route.backend == route


@pytest.mark.parametrize("route", ["remote", "local"])
def test_many_loops_share_one_client(case, route):
    results = []

    def in_a_loop_of_its_own():
        async def main():
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(case.aio.embed(TEXTS, model=MODEL, route=route))
                    for _ in range(4)
                ]
            results.extend(task.result().route.backend for task in tasks)

        asyncio.run(main())

    threads = [threading.Thread(target=in_a_loop_of_its_own) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [route] * 16


@pytest.mark.parametrize("jump_seconds", [-DAY_SECONDS, DAY_SECONDS])
@pytest.mark.parametrize("caller", [caller for callers in CALLERS.values() for caller in callers])
def test_a_jump_of_the_wall_clock_changes_nothing(case, monkeypatch, caller, jump_seconds):
    case.world.fake.enqueue(Reply(status=429, headers={"Retry-After": "30"}))
    assert call(caller, case, route=None).route.reason is Reason.RATE_LIMITED
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump_seconds)
    assert status(caller, case)[0]["opens_in_seconds"] == pytest.approx(30.0)
    assert call(caller, case, route=None).route.backend == "local"
    case.world.clock.advance(31.0)
    assert call(caller, case, route=None).route.backend == "remote"
