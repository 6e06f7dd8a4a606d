"""Which target is next: fresh ones before retries, warm ones before waits, a slow copy before nothing."""

from __future__ import annotations

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import HybridInferError, RateLimitError
from hybrid_infer.routing.breaker import BreakerState
from hybrid_infer.routing.condition import Closure
from hybrid_infer.routing.state import Call, Candidate, Try
from hybrid_infer.routing.targets import ReadinessState

LOCAL_RESERVE = 1.5  # times its 95th percentile, kept back from a remote attempt
PROBE_LOOK_SECONDS = 1.0  # how soon a call looks again at a breaker whose probe is under way


def choose(call: Call) -> tuple[Candidate, float] | None:
    """The next candidate and how long to wait before it; None when nothing can serve any more."""
    context = call.context
    left = context.deadline.left()
    if left <= 0.0:
        return None
    now = context.clock()
    open_candidates = [c for c in call.candidates if not c.exhausted]
    _apply_gates(call, open_candidates, now)
    local_ready_seconds = call.local_ready_seconds = _local_ready_seconds(call, left)
    best: tuple[tuple[float, bool, int], Candidate, float] | None = None
    for order, candidate in enumerate(open_candidates):
        if candidate.target.kind == "local":
            if local_ready_seconds is None:
                continue
            # Loading is done inside the attempt, so it starts now; a cold copy is only weighed
            # against waits that a remote has named.
            wait, weight = 0.0, _weight_of_loading(call, local_ready_seconds)
        else:
            wait = weight = max(0.0, candidate.available_at - now)
            if wait >= left:
                continue
        rank = (weight, candidate.tries > 0, order)
        if best is None or rank < best[0]:
            best = (rank, candidate, wait)
    if best is not None:
        return best[1], best[2]
    return _last_resort(call)


def _apply_gates(call: Call, candidates: list[Candidate], now: float) -> None:
    """Let what is closed, or paced, push a remote's next try back, and remember why."""
    for candidate in candidates:
        if candidate.target.kind == "local":
            continue
        closure = _closure(call, candidate, now)
        if closure is None:
            continue
        until = closure.until
        if closure.state == BreakerState.HALF_OPEN:
            # The probe may be back long before its lease ends.
            until = min(until, now + PROBE_LOOK_SECONDS)
        candidate.available_at = max(candidate.available_at, until)
        candidate.wait_is_named |= closure.reason is Reason.RATE_LIMITED
        if candidate.tries == 0:
            candidate.last_reason = closure.reason
            candidate.last_error = _closed_error(closure.error, closure.until - now)


def _closure(call: Call, candidate: Candidate, now: float) -> Closure | None:
    target, context = candidate.target, call.context
    closure = context.health.closed(target, context.spec, is_polling=candidate.is_polling)
    wait = context.pacing.of(target.name).wait_seconds(now)
    # Whichever lasts longer: else a call would sleep for the one, and be refused by the other.
    if wait <= 0.0 or (closure is not None and closure.until >= now + wait):
        return closure
    error = RateLimitError(f"{target.name} is paced to stay below its rate limit")
    return Closure(Reason.RATE_LIMITED, error, now + wait)


def _closed_error(error: HybridInferError, seconds: float) -> HybridInferError:
    closed = type(error)(f"{error.message} (not asked again for another {seconds:.1f} s)")
    closed.retry_after = seconds
    closed.status = error.status
    return closed


def _local_ready_seconds(call: Call, left: float) -> float | None:
    """When the local copy could start on the request, or None if it cannot serve in time."""
    if call.local is None or call.local.exhausted:
        return None
    # The plan was made with the first look, a moment ago.
    readiness = call.context.readiness() if call.has_looked else call.plan.local
    call.has_looked = True
    if readiness.state is ReadinessState.ABSENT:
        return None
    if readiness.seconds + call.context.local_seconds >= left:
        return None
    return readiness.seconds


def _weight_of_loading(call: Call, ready_seconds: float) -> float:
    """How late a local copy counts as being: its load time, but only next to a named wait."""
    if call.plan.targets[0].kind == "local":
        return 0.0
    for candidate in call.candidates:
        if candidate.wait_is_named and not candidate.exhausted:
            return ready_seconds
    return 0.0


def _last_resort(call: Call) -> tuple[Candidate, float] | None:
    """A local copy that is expected to be too slow is still better than no answer."""
    local = call.local
    return (local, 0.0) if local is not None and local.tries == 0 and not local.exhausted else None


def wants_preload(call: Call, choice: tuple[Candidate, float] | None) -> bool:
    """Whether the first failure or closed gate should set a cold local copy loading."""
    if call.preloaded or call.context.settings.preload == "never":
        return False
    if call.local is None or call.plan.local.state is not ReadinessState.COLD:
        return False
    has_failed = any(candidate.last_reason is not None for candidate in call.candidates)
    if not has_failed and call.context.settings.preload != "at_start":
        return False
    # A try at the local copy loads it anyway.
    return choice is None or choice[0].target.kind != "local"


def next_try(call: Call, candidate: Candidate) -> Try:
    """The attempt to make: a remote one leaves time for the local copy."""
    if candidate.target.kind == "local":
        return Try(candidate.target)
    context = call.context
    deadline = context.deadline
    limit = deadline.left()
    if call.local_ready_seconds is not None:
        reserve = call.local_ready_seconds + LOCAL_RESERVE * context.local_seconds
        limit = max(limit - reserve, limit / 2)
    silence = limit
    if context.has_first_answer_limit:
        silence = min(silence, context.settings.attempt_timeout_seconds)
    # Under a renewable deadline progress buys time, so only silence can end an attempt.
    return Try(candidate.target, None if deadline.renewable else limit, silence)
