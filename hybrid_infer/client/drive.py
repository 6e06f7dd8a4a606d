"""The two drivers of a flow: one blocks, one awaits. Neither decides anything."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hybrid_infer.client.pauses import Pauses
from hybrid_infer.client.priming import primed, primed_async
from hybrid_infer.client.racing import race, race_async
from hybrid_infer.datatypes.deadline import AttemptDeadline, Clock, Deadline
from hybrid_infer.datatypes.requests import ChatRequest, Request
from hybrid_infer.errors import HybridInferError
from hybrid_infer.routing.flow import Flow
from hybrid_infer.routing.state import Decision, Preload, Race, Try, Wait
from hybrid_infer.routing.targets import Backend, Outcome, Result


@dataclass(slots=True)
class Dispatch:
    """What a driver needs besides the flow: where targets are, how to wait, and the call itself."""

    backends: Callable[[str], Backend]
    preload: Callable[[], None]
    request: Request
    deadline: Deadline
    clock: Clock = time.monotonic
    pauses: Pauses = field(default_factory=Pauses)

    def arm(self, step: Try) -> AttemptDeadline:
        """The share of the call's deadline that `step` may use."""
        return self.deadline.attempt(
            limit_seconds=step.limit_seconds, silence_seconds=step.silence_seconds
        )


def drive(
    flow: Flow, dispatch: Dispatch, sleep: Callable[[float], object] | None = None
) -> Decision:
    """Run a flow to its end on the calling thread; `sleep` waits instead of `dispatch.pauses`."""
    sleep = sleep or dispatch.pauses.sleep
    outcome: Outcome | None = None
    with contextlib.closing(flow):  # whatever ends this, the flow gives back what it holds
        try:
            while True:
                step = flow.send(outcome)
                outcome = None
                match step:
                    case Try():
                        outcome = _attempt(step, dispatch, dispatch.arm(step))
                    case Race():
                        outcome = race(
                            step,
                            lambda tried, deadline: _attempt(tried, dispatch, deadline),
                            dispatch.arm,
                            dispatch.clock,
                        )
                    case Wait(seconds):
                        sleep(seconds)
                    case Preload():
                        dispatch.preload()
        except StopIteration as end:
            decision: Decision = end.value
            return decision


async def drive_async(
    flow: Flow, dispatch: Dispatch, sleep: Callable[[float], Awaitable[object]] | None = None
) -> Decision:
    """Run a flow to its end on the running event loop; see `drive`."""
    sleep = sleep or dispatch.pauses.sleep_async
    outcome: Outcome | None = None
    with contextlib.closing(flow):  # whatever ends this, the flow gives back what it holds
        try:
            while True:
                step = flow.send(outcome)
                outcome = None
                match step:
                    case Try():
                        outcome = await _attempt_async(step, dispatch)
                    case Race():
                        outcome = await race_async(
                            step, lambda tried: _attempt_async(tried, dispatch), dispatch.clock
                        )
                    case Wait(seconds):
                        await sleep(seconds)
                    case Preload():
                        dispatch.preload()
        except StopIteration as end:
            decision: Decision = end.value
            return decision


def _attempt(step: Try, dispatch: Dispatch, deadline: AttemptDeadline) -> Outcome:
    request, started = dispatch.request, dispatch.clock()
    result: Result
    try:
        backend = dispatch.backends(step.target.name)
        if isinstance(request, ChatRequest) and request.stream:
            result = primed(backend.stream(request, deadline))
            deadline.release()
        else:
            result = backend.call(request, deadline)
    except HybridInferError as error:
        return Outcome(dispatch.clock() - started, error=error)
    return Outcome(dispatch.clock() - started, result=result)


async def _attempt_async(step: Try, dispatch: Dispatch) -> Outcome:
    request, deadline, started = dispatch.request, dispatch.arm(step), dispatch.clock()
    result: Result
    try:
        backend = dispatch.backends(step.target.name)
        if isinstance(request, ChatRequest) and request.stream:
            result = await primed_async(await backend.astream(request, deadline))
            deadline.release()
        else:
            result = await backend.acall(request, deadline)
    except HybridInferError as error:
        return Outcome(dispatch.clock() - started, error=error)
    return Outcome(dispatch.clock() - started, result=result)
