"""What the caller, the observer and the log are told of a call: its route and its events."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hybrid_infer.client.calls import PlannedCall
from hybrid_infer.datatypes.route import Attempt, Reason, Route
from hybrid_infer.errors import HybridInferError
from hybrid_infer.events import AttemptFinished, CallFailed, CallFinished, FellBack
from hybrid_infer.routing.state import Decision

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

logger = logging.getLogger("hybrid_infer")

_LOUD = (Reason.AUTHENTICATION, Reason.QUOTA_EXCEEDED)


def route_of(session: Session, call: PlannedCall, decision: Decision) -> Route:
    """The route of a served call."""
    provenance = decision.result.provenance
    is_local = decision.target.kind == "local"
    return Route(
        backend="local" if is_local else "remote",
        provider=None if is_local else decision.target.name,
        model=provenance.model,
        revision=provenance.revision,
        verified=provenance.verified
        or session.canary.trusts(decision.target.name, call.request.spec),
        reason=decision.reason,
        detail=decision.detail,
        attempts=decision.attempts,
        latency_seconds=session.clock() - call.started_at,
        dtype=provenance.dtype,
        quantization=provenance.quantization,
    )


def finished(session: Session, call: PlannedCall, decision: Decision) -> Route:
    """The route of a served call; tells the observer and the log."""
    route, model = route_of(session, call, decision), call.request.spec.name
    report_attempts(session, model, route.attempts)
    if decision.reason not in (Reason.PRIMARY, Reason.REQUESTED):
        report_fallback(session, call, decision, call.plan.order[0].name)
    session.on_event(CallFinished(model, route))
    return route


def report_attempts(session: Session, model: str, attempts: tuple[Attempt, ...]) -> None:
    """Tell the observer of tries, and the log of those that only a person can mend."""
    for attempt in attempts:
        session.on_event(AttemptFinished(model, attempt))
        if attempt.reason in _LOUD and (attempt.target, attempt.reason) not in session.warned:
            session.warned.add((attempt.target, attempt.reason))
            logger.warning(
                "remote %s refused %s (%s); other targets serve while this lasts",
                attempt.target,
                model,
                attempt.reason,
            )


def report_fallback(
    session: Session, call: PlannedCall, decision: Decision, from_target: str
) -> None:
    """Tell the observer and the log that the first choice did not serve."""
    model, to_target = call.request.spec.name, decision.target.name
    logger.info("%s served by %s instead of %s: %s", model, to_target, from_target, decision.reason)
    session.on_event(FellBack(model, from_target, to_target, decision.reason))


def report_failure(session: Session, call: PlannedCall, error: HybridInferError) -> None:
    """Tell the observer and the log that a call ended with an error."""
    model = call.request.spec.name
    report_attempts(session, model, error.attempts)
    session.on_event(CallFailed(model, type(error).__name__, error.attempts))
