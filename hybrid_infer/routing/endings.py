"""How a call ends: one decision with its reason, or one typed error with every cause."""

from __future__ import annotations

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    AllTargetsFailedError,
    APITimeoutError,
    DeadlineExceededError,
    HybridInferError,
)
from hybrid_infer.routing.policy import left_out_note
from hybrid_infer.routing.state import Call, Candidate, Decision
from hybrid_infer.routing.targets import Outcome


def success(call: Call, candidate: Candidate, outcome: Outcome) -> Decision:
    """The decision of a call that `candidate` served."""
    if outcome.result is None:
        raise RuntimeError("an Outcome carries a result or an error")
    call.tried(candidate.target, outcome.elapsed_seconds, None, None)
    reason, detail = _why(call, candidate)
    return Decision(outcome.result, candidate.target, reason, detail, tuple(call.attempts))


def _why(call: Call, served: Candidate) -> tuple[Reason, str]:
    """Why `served`: what kept the first target that the policy would rather have had."""
    if call.plan.requested:
        return Reason.REQUESTED, ""
    if served.target is call.plan.order[0]:
        return Reason.PRIMARY, ""
    excluded = {exclusion.target: exclusion for exclusion in call.plan.exclusions}
    tried = {candidate.target: candidate for candidate in call.candidates}
    for target in call.plan.order:
        if target == served.target:
            break
        if target in excluded:
            return excluded[target].reason, excluded[target].detail
        blocker = tried[target]
        if blocker.last_reason is not None:
            # Without an error it lost a race against its hedge.
            error = blocker.last_error
            message = "slower than the local copy" if error is None else error.message
            return blocker.last_reason, f"{target.name}: {message}"
        if blocker.target.kind == "local":
            return Reason.NOT_READY, f"{call.plan.local.state}, and the time left is short"
    return Reason.PRIMARY, ""


def failure(call: Call) -> HybridInferError:
    """The one error of a call that nobody served."""
    failed = [c for c in call.candidates if c.last_error is not None]
    attempted = [c for c in failed if c.tries > 0]
    errors = [c.last_error for c in attempted or failed if c.last_error is not None]
    out_of_time = call.context.deadline.expired() and (
        not errors or isinstance(errors[-1], APITimeoutError | DeadlineExceededError)
    )
    if out_of_time or not errors:
        return with_attempts(call, _deadline_error(call, errors))
    if len(attempted) > 1:
        return with_attempts(call, _all_failed(attempted, errors))
    error = errors[0]
    for closed in failed:
        if closed.tries == 0 and closed.last_error is not error:
            error.add_note(f"{closed.target.name} was not asked: {closed.last_error}")
    return with_attempts(call, error)


def _all_failed(
    attempted: list[Candidate], errors: list[HybridInferError]
) -> AllTargetsFailedError:
    lines = "; ".join(
        f"{c.target.name}: {type(c.last_error).__name__}: {c.last_error}" for c in attempted
    )
    error = AllTargetsFailedError(f"no target could serve the call: {lines}", causes=errors)
    error.__cause__ = errors[0]
    return error


def _deadline_error(call: Call, errors: list[HybridInferError]) -> HybridInferError:
    deadline = call.context.deadline
    kind = "made no progress for" if deadline.renewable else "did not finish within"
    error = DeadlineExceededError(f"the call {kind} {deadline.asked_seconds:g} s")
    if errors:
        error.__cause__ = errors[-1]
    return error


def with_attempts(call: Call, error: HybridInferError) -> HybridInferError:
    """`error` with the call's attempts, and a note on every target that was left out."""
    error.attempts = tuple(call.attempts)
    for exclusion in call.plan.exclusions:
        error.add_note(left_out_note(exclusion))
    return error
