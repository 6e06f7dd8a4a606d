"""A race of two tries: the first to succeed wins, the other is cancelled."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace

from hybrid_infer.datatypes.deadline import AttemptDeadline, Clock
from hybrid_infer.routing.state import Race, Try
from hybrid_infer.routing.targets import Outcome

Attempt = Callable[[Try, AttemptDeadline], Outcome]
AsyncAttempt = Callable[[Try], Awaitable[Outcome]]
Arm = Callable[[Try], AttemptDeadline]


def race(step: Race, attempt: Attempt, arm: Arm, clock: Clock) -> Outcome:
    """Run a race on threads of its own.

    Args:
        step: the two tries, and when the second starts.
        attempt: makes one try.
        arm: the share of the call's deadline that a try may use; cancelling it ends the try.
        clock: a monotonic clock in seconds.
    """
    started = clock()
    ended: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
    first, second = arm(step.first), arm(step.second)
    runners: dict[bool, Future[Outcome]] = {}
    try:
        runners[True] = _start(lambda: attempt(step.first, first), ended)
        try:
            return ended.get(timeout=step.after_seconds).result()
        except queue.Empty:
            runners[False] = _start(lambda: attempt(step.second, second), ended)
        outcomes: dict[bool, Outcome] = {}
        while len(outcomes) < len(runners):
            outcome = ended.get().result()
            outcomes = {is_first: f.result() for is_first, f in runners.items() if f.done()}
            if outcome.error is None:
                break
        return _finish(outcomes, clock() - started)
    finally:
        for is_first, deadline in ((True, first), (False, second)):
            runner = runners.get(is_first)
            if runner is not None and not runner.done():  # another one's connection is of use
                deadline.cancel()


def _start(
    attempt: Callable[[], Outcome], ended: queue.SimpleQueue[Future[Outcome]]
) -> Future[Outcome]:
    """Make a try on a thread of its own; its future is put into `ended` when it is over."""
    future: Future[Outcome] = Future()

    def run() -> None:
        try:
            outcome = attempt()
        except BaseException as error:  # noqa: BLE001 - raised again where the race is waited for
            future.set_exception(error)
        else:
            future.set_result(outcome)
        ended.put(future)

    threading.Thread(target=run, name="hybrid-infer-race", daemon=True).start()
    return future


async def race_async(step: Race, attempt: AsyncAttempt, clock: Clock) -> Outcome:
    """`race`, on tasks of the running event loop."""
    started = clock()
    tasks = {True: asyncio.ensure_future(attempt(step.first))}
    outcomes: dict[bool, Outcome] = {}
    try:
        await asyncio.wait(tasks.values(), timeout=step.after_seconds)
        if tasks[True].done():
            return tasks[True].result()
        tasks[False] = asyncio.ensure_future(attempt(step.second))
        while len(outcomes) < 2:  # noqa: PLR2004 - both tries
            running = [task for is_first, task in tasks.items() if is_first not in outcomes]
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            outcomes = {is_first: t.result() for is_first, t in tasks.items() if t.done()}
            if any(outcome.error is None for outcome in outcomes.values()):
                break
        return _finish(outcomes, clock() - started)
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _finish(outcomes: dict[bool, Outcome], seconds: float) -> Outcome:
    """The first try's outcome, with the second's as its hedge if only that one succeeded."""
    first, second = outcomes.get(True), outcomes.get(False)
    if second is None or second.error is not None or (first is not None and first.error is None):
        return first if first is not None else Outcome(seconds)
    return replace(first or Outcome(seconds), hedge=second)
