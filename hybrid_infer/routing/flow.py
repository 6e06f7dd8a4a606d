"""One call's decisions as a generator that performs no I/O.

It yields what to do next (`Try`, `Race`, `Wait`, `Preload`) and is sent the `Outcome` of each try;
it returns a `Decision`, or raises the call's one typed error. Two drivers run it: one sleeps and
blocks, one awaits. Neither decides anything. Closing the generator gives back what it holds.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator
from dataclasses import replace
from typing import TypeAlias

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    APITimeoutError,
    AuthenticationError,
    DeadlineExceededError,
    EngineClosedError,
    HybridInferError,
)
from hybrid_infer.routing.choosing import choose, next_try, wants_preload
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.endings import failure, success, with_attempts
from hybrid_infer.routing.health import Admission
from hybrid_infer.routing.hedging import hedged
from hybrid_infer.routing.policy import Plan
from hybrid_infer.routing.state import (
    Call,
    Candidate,
    Decision,
    FlowContext,
    Preload,
    Race,
    Step,
    Try,
    Wait,
)
from hybrid_infer.routing.targets import Outcome
from hybrid_infer.routing.verdicts import Retry, Verdict, verdict_for

MAX_BACKOFF_SECONDS = 8.0
FIRST_BACKOFF_SECONDS = 0.25
MOST_DOUBLINGS = 10  # of a backoff, which is bounded long before
LEAST_POLL_SECONDS, MOST_POLL_SECONDS = 0.5, 20.0  # a model that loads may claim to need no time
USUAL_REMOTE_SECONDS = 1.0  # until an answer has been timed

Flow: TypeAlias = Generator[Step, Outcome | None, Decision]


def run(plan: Plan, context: FlowContext) -> Flow:
    """Decide one call.

    Raises:
        HybridInferError: a single target's own error, `AllTargetsFailedError` after two or more,
            `DeadlineExceededError` when time ran out.
    """
    call = Call(plan, context, [Candidate(target) for target in plan.targets])
    try:
        return (yield from _decided(call))
    finally:
        for candidate in call.candidates:
            if candidate.retry_is_paid:
                context.health.give_back_retry(candidate.target)


def _decided(call: Call) -> Flow:
    """See `run`."""
    while True:
        choice = choose(call)
        if wants_preload(call, choice):
            call.preloaded = True
            yield Preload()
        if choice is None:
            raise failure(call)
        candidate, wait_seconds = choice
        if wait_seconds > 0:
            yield Wait(wait_seconds)
            if call.context.is_closed():  # which ends a wait
                raise with_attempts(
                    call, EngineClosedError("the client was closed during the call")
                )
            continue
        decision = yield from _asked(call, candidate)
        if decision is not None:
            return decision


def _asked(call: Call, candidate: Candidate) -> Generator[Step, Outcome | None, Decision | None]:
    """Ask one target; None if that decided nothing yet."""
    step = next_try(call, candidate)
    if candidate.target.kind == "local":
        candidate.tries += 1
        return _weighed(call, candidate, (yield step), None)
    admission = _admitted(call, candidate, step)
    if admission is None:
        return None  # it has closed in this very moment; choosing again will see why
    candidate.retry_is_paid = False  # this is it
    candidate.tries += 1
    outcome = None
    race = hedged(call, candidate, step)
    pacer = call.context.pacing.of(candidate.target.name)
    try:
        outcome = yield race
    finally:
        if outcome is None or outcome.error is not None or not call.context.is_stream:
            pacer.finish()
        if outcome is None:
            call.context.health.release(admission)
    if isinstance(race, Race) and outcome is not None:
        _pay_back(call, race, outcome)
    decision = _weighed(call, candidate, outcome, admission)
    if decision is not None and call.context.is_stream:
        decision.end_stream = weakref.finalize(decision.result, pacer.finish)
    return decision


def _pay_back(call: Call, race: Race, outcome: Outcome) -> None:
    """A hedge that was never started costs nothing."""
    if call.context.hedges is not None and outcome.elapsed_seconds < race.after_seconds:
        call.context.hedges.give_back()


def _admitted(call: Call, candidate: Candidate, step: Try) -> Admission | None:
    """Leave from health and pacing to ask a remote; None if either says no."""
    context, target = call.context, candidate.target
    lease = context.deadline.left() if step.limit_seconds is None else step.limit_seconds
    admission = context.health.admit(target, context.spec, lease, is_polling=candidate.is_polling)
    if admission is not None and not context.pacing.of(target.name).start(context.clock()):
        context.health.release(admission)
        return None
    return admission


def _weighed(
    call: Call, candidate: Candidate, outcome: Outcome | None, admission: Admission | None
) -> Decision | None:
    """The decision that an outcome makes, or None if the call goes on."""
    if outcome is None:
        raise RuntimeError("a Try must be answered with an Outcome")
    context = call.context
    if outcome.hedge is not None:
        return _won_by_local(call, candidate, outcome, outcome.hedge, admission)
    if outcome.error is None:
        if admission is not None:
            context.health.settle(admission)
            if context.is_one_unit:
                key = context.latency_key(candidate.target)
                context.remote_latency.record(key, outcome.elapsed_seconds)
        decision = success(call, candidate, outcome)
        decision.admission = admission
        return decision
    _learn(call, candidate, outcome, outcome.error, admission)
    return None


def _won_by_local(
    call: Call, remote: Candidate, outcome: Outcome, hedge: Outcome, admission: Admission | None
) -> Decision:
    """The local copy answered first; the remote was given up, or had failed."""
    if outcome.error is not None:
        _learn(call, remote, outcome, outcome.error, admission)
    elif admission is not None:
        call.context.health.release(admission)
    local = call.local
    if local is None:
        raise RuntimeError("only the local copy makes a hedge")
    local.tries += 1
    if remote.last_reason is None:
        remote.last_reason = Reason.TIMEOUT
    return success(call, local, hedge)


def _learn(
    call: Call,
    candidate: Candidate,
    outcome: Outcome,
    error: HybridInferError,
    admission: Admission | None,
) -> None:
    """Record a failed try: attempts, health, and whether the target may be asked again."""
    verdict = verdict_for(error)
    call.tried(candidate.target, outcome.elapsed_seconds, error, verdict.reason)
    if admission is not None:
        verdict = _fair(call, candidate, outcome, verdict, error)
        call.context.health.settle(admission, verdict, error)
    candidate.last_error, candidate.last_reason = error, verdict.reason
    if not verdict.falls_back or _ends_call(call.context, error):
        raise with_attempts(call, error)
    if admission is None:
        candidate.exhausted = True
        return
    wait = _wait_before_retry(call, candidate, verdict, error)
    _close_gate(call, candidate, verdict, error, wait)
    candidate.exhausted = not _may_retry(call, candidate, verdict)
    candidate.available_at = call.context.clock() + wait
    candidate.wait_is_named = verdict.retry is Retry.AFTER_WAIT
    candidate.is_polling = verdict.retry is Retry.POLL
    candidate.retry_is_paid = verdict.retry is Retry.JITTERED and not candidate.exhausted


def _ends_call(context: FlowContext, error: HybridInferError) -> bool:
    """Whether an error for which another target is asked as a rule ends this call."""
    if isinstance(error, EngineClosedError):  # a single engine may also have died too often
        return context.is_closed()
    return context.strict_auth and isinstance(error, AuthenticationError)


def _fair(
    call: Call, candidate: Candidate, outcome: Outcome, verdict: Verdict, error: HybridInferError
) -> Verdict:
    """A remote that got less time than it usually takes has not failed by being slow."""
    if not isinstance(error, APITimeoutError | DeadlineExceededError) or error.status is not None:
        return verdict
    context = call.context
    key = context.latency_key(candidate.target)
    usual = context.remote_latency.quantile(key, 0.5, default=USUAL_REMOTE_SECONDS)
    return replace(verdict, counts_against=None) if outcome.elapsed_seconds < usual else verdict


def _close_gate(
    call: Call, candidate: Candidate, verdict: Verdict, error: HybridInferError, wait: float
) -> None:
    """Keep later calls away for as long as the failure says."""
    gate = verdict.gate
    if gate is None:
        return
    context = call.context
    seconds = gate.seconds
    if seconds is None:
        seconds = wait if error.retry_after is None else error.retry_after
        if verdict.retry is Retry.POLL:
            seconds = max(seconds, wait)
    closure = Closure(verdict.reason, error)
    context.health.close(candidate.target, context.spec, gate, seconds=seconds, closure=closure)
    if verdict.retry is Retry.AFTER_WAIT:
        context.pacing.of(candidate.target.name).limited(context.clock() + seconds)


def _may_retry(call: Call, candidate: Candidate, verdict: Verdict) -> bool:
    """Whether the same target may be asked again; a retry that costs its budget is paid for here."""
    match verdict.retry:
        case Retry.NEVER:
            return False
        case Retry.POLL:
            return True
        case Retry.AFTER_WAIT:
            return candidate.tries < call.context.settings.max_attempts_per_target
        case Retry.JITTERED:
            most = 3 if len(call.candidates) == 1 else 2
            return candidate.tries < min(
                most, call.context.settings.max_attempts_per_target
            ) and call.context.health.take_retry(candidate.target)


def _wait_before_retry(
    call: Call, candidate: Candidate, verdict: Verdict, error: HybridInferError
) -> float:
    """Seconds before the same target may be asked again, if at all."""
    named, doublings = error.retry_after, min(candidate.tries, MOST_DOUBLINGS)
    if verdict.retry is Retry.POLL:
        half = MOST_POLL_SECONDS / 2 if named is None else named / 2
        return min(max(half, LEAST_POLL_SECONDS), MOST_POLL_SECONDS)
    if verdict.retry is Retry.AFTER_WAIT:
        if named is not None:
            return named
        return call.context.randomness.uniform(1.0, min(60.0, 2.0**doublings))
    most = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0**doublings)
    return max(named or 0.0, call.context.randomness.uniform(0.0, most))
