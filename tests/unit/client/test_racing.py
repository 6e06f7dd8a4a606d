"""A race of two tries, on threads and on a loop: who wins, who is cancelled, what is told."""

import asyncio
import threading

import pytest

from hybrid_infer.client.racing import race, race_async
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.errors import LocalEngineError, RemoteServerError
from hybrid_infer.routing.state import Race, Try
from hybrid_infer.routing.targets import Outcome, Target

REMOTE, LOCAL = Target("huggingface", "remote"), Target("local", "local")
RESULT = object()
GOOD = Outcome(0.1, result=RESULT)


def bad(kind=RemoteServerError):
    return Outcome(0.1, error=kind("no"))


class Script:
    """Each try's outcome, and what must have happened before it ends."""

    def __init__(self, first, second, *, first_waits_for="nothing", second_waits_for="nothing"):
        self.outcomes = {"huggingface": first, "local": second}
        self.waits = {"huggingface": first_waits_for, "local": second_waits_for}
        self.started = {"huggingface": threading.Event(), "local": threading.Event()}
        self.ended = {"huggingface": threading.Event(), "local": threading.Event()}
        self.threads, self.cancelled = {}, []

    def after(self, name):
        return {
            "nothing": None,
            "cancelling": None,
            "the other's start": self.started["local"],
            "the other's end": self.ended[{"local": "huggingface", "huggingface": "local"}[name]],
        }[self.waits[name]]


def play(script, after_seconds=0.0):
    arms = []

    def arm(step):
        deadline = Deadline(20.0).attempt()
        deadline.on_cancel(lambda: script.cancelled.append(step.target.name))
        arms.append(deadline)
        return deadline

    def attempt(step, deadline):
        name = step.target.name
        script.threads[name] = threading.current_thread()
        script.started[name].set()
        event = script.after(name)
        if script.waits[name] == "cancelling":
            deadline.on_cancel(script.ended[name].set)
            script.ended[name].wait(20.0)
        elif event is not None:
            assert event.wait(20.0)
        if script.waits[name] == "the other's end":  # whose outcome is known by then
            script.threads[{"local": "huggingface", "huggingface": "local"}[name]].join(20.0)
        script.ended[name].set()
        outcome = script.outcomes[name]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return race(Race(Try(REMOTE), Try(LOCAL), after_seconds), attempt, arm, lambda: 1.0)


def test_a_first_try_in_time_runs_alone():
    script = Script(GOOD, GOOD)
    assert play(script, after_seconds=20.0) is GOOD
    assert not script.started["local"].is_set()
    assert not script.cancelled


def test_a_failure_in_time_is_the_flows_business():
    failure = bad()
    assert play(Script(failure, GOOD), after_seconds=20.0) is failure


def test_the_second_wins_and_the_first_is_cancelled():
    script = Script(bad(), GOOD, first_waits_for="cancelling")
    outcome = play(script)
    assert outcome.hedge is GOOD
    assert outcome.error is None
    assert script.cancelled == ["huggingface"]
    assert script.ended["huggingface"].wait(20.0)


def test_the_first_may_still_win():
    script = Script(GOOD, bad(), first_waits_for="the other's start", second_waits_for="cancelling")
    outcome = play(script)
    assert outcome.result is RESULT
    assert outcome.hedge is None


def test_a_first_that_fails_leaves_it_to_the_second():
    failure = bad()
    script = Script(
        failure, GOOD, first_waits_for="the other's start", second_waits_for="the other's end"
    )
    outcome = play(script)
    assert outcome.error is failure.error
    assert outcome.hedge is GOOD


def test_two_failures_are_the_firsts():
    failure = bad()
    script = Script(
        failure, bad(LocalEngineError), first_waits_for="the other's start",
        second_waits_for="the other's end",
    )  # fmt: skip
    outcome = play(script)
    assert outcome.error is failure.error
    assert outcome.hedge is None


def test_a_defect_in_a_try_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        play(Script(ZeroDivisionError(), GOOD), after_seconds=20.0)


def test_awaited_it_is_the_same():
    async def main():
        cancelled = []

        def attempts(first, second, first_ends=None, second_ends=None):
            async def attempt(step):
                is_first = step.target is REMOTE
                event = first_ends if is_first else second_ends
                try:
                    if event is not None:
                        await event.wait()
                except asyncio.CancelledError:
                    cancelled.append(step.target.name)
                    raise
                return first if is_first else second

            return attempt

        async def run(attempt, after_seconds=0.0):
            step = Race(Try(REMOTE), Try(LOCAL), after_seconds)
            return await race_async(step, attempt, lambda: 1.0)

        assert await run(attempts(GOOD, GOOD), after_seconds=20.0) is GOOD
        never = asyncio.Event()
        outcome = await run(attempts(GOOD, GOOD, first_ends=never))
        assert (outcome.hedge, outcome.error, cancelled) == (GOOD, None, ["huggingface"])
        failing = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, failing.set)
        outcome = await run(attempts(bad(), bad(LocalEngineError), first_ends=failing))
        assert isinstance(outcome.error, RemoteServerError)
        assert outcome.hedge is None

    asyncio.run(main())


def test_cancelling_the_caller_cancels_both():
    async def main():
        begun, cancelled = asyncio.Event(), []

        async def attempt(step):
            if step.target is LOCAL:
                begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(step.target.name)
                raise

        step = Race(Try(REMOTE), Try(LOCAL), 0.0)
        task = asyncio.ensure_future(race_async(step, attempt, lambda: 1.0))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(cancelled) == ["huggingface", "local"]

    asyncio.run(main())
