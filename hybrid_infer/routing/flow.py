"""One call's decisions as a generator that performs no I/O.

It yields what to do next (`Try`, `Wait`, `Preload`) and is sent the `Outcome` of each try; it
returns a `Decision`, or raises the call's one typed error. Two drivers run it: one sleeps and
blocks, one awaits. Neither decides anything.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias

from hybrid_infer.datatypes.route import Attempt
from hybrid_infer.errors import AuthenticationError, HybridInferError
from hybrid_infer.routing.choosing import choose, next_try, wants_preload
from hybrid_infer.routing.endings import failure, success, with_attempts
from hybrid_infer.routing.policy import Plan
from hybrid_infer.routing.state import Call, Candidate, Decision, FlowContext, Preload, Step, Wait
from hybrid_infer.routing.targets import Outcome
from hybrid_infer.routing.verdicts import Retry, Verdict, verdict_for

MAX_BACKOFF_SECONDS = 8.0
FIRST_BACKOFF_SECONDS = 0.25

Flow: TypeAlias = Generator[Step, Outcome | None, Decision]


def run(plan: Plan, context: FlowContext) -> Flow:
    """Decide one call.

    Raises:
        HybridInferError: a single target's own error, `AllTargetsFailedError` after two or more,
            `DeadlineExceededError` when time ran out.
    """
    call = Call(plan, context, [Candidate(target) for target in plan.targets])
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
            continue
        candidate.tries += 1
        outcome = yield next_try(call, candidate)
        if outcome is None:
            raise RuntimeError("a Try must be answered with an Outcome")
        if outcome.error is None:
            return success(call, candidate, outcome)
        _learn(call, candidate, outcome, outcome.error)


def _learn(call: Call, candidate: Candidate, outcome: Outcome, error: HybridInferError) -> None:
    """Record a failed try: attempts, gates, and whether the target may be asked again."""
    verdict = verdict_for(error)
    call.attempts.append(
        Attempt(
            candidate.target.name,
            verdict.reason,
            type(error).__name__,
            outcome.elapsed_seconds,
            error.retry_after,
        )
    )
    candidate.last_error, candidate.last_reason = error, verdict.reason
    if not verdict.falls_back or (
        call.context.strict_auth and isinstance(error, AuthenticationError)
    ):
        raise with_attempts(call, error)
    if candidate.target.kind == "local":
        candidate.exhausted = True
        return
    wait = _wait_before_retry(call, candidate, verdict, error)
    if verdict.gate is not None:
        seconds = verdict.gate.seconds
        if seconds is None:
            seconds = wait if error.retry_after is None else error.retry_after
        call.context.health.close(
            candidate.target,
            call.context.spec,
            verdict.gate,
            seconds=seconds,
            reason=verdict.reason,
            error=error,
        )
    candidate.exhausted = not _may_retry(call, candidate, verdict)
    candidate.available_at = call.context.clock() + wait
    candidate.wait_is_named = verdict.retry is Retry.AFTER_WAIT


def _may_retry(call: Call, candidate: Candidate, verdict: Verdict) -> bool:
    match verdict.retry:
        case Retry.NEVER:
            return False
        case Retry.POLL:
            return True
        case Retry.AFTER_WAIT:
            return candidate.tries < call.context.settings.max_attempts_per_target
        case Retry.JITTERED:
            most = 3 if len(call.candidates) == 1 else 2
            return candidate.tries < min(most, call.context.settings.max_attempts_per_target)


def _wait_before_retry(
    call: Call, candidate: Candidate, verdict: Verdict, error: HybridInferError
) -> float:
    """Seconds before the same target may be asked again, if at all."""
    named = error.retry_after
    if verdict.retry is Retry.POLL:
        return min((named if named is not None else 20.0) / 2, 20.0)
    if verdict.retry is Retry.AFTER_WAIT:
        if named is not None:
            return named
        return call.context.randomness.uniform(1.0, min(60.0, 2.0**candidate.tries))
    most = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0**candidate.tries)
    return max(named or 0.0, call.context.randomness.uniform(0.0, most))
