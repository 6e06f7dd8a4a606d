"""What the caller, the observer and the log are told of a call: its route and its events."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hybrid_infer.client.calls import PlannedCall
from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.datatypes.replies import ChatReply, EmbedReply
from hybrid_infer.datatypes.requests import EmbedRequest, Request
from hybrid_infer.datatypes.route import Attempt, Reason, Route
from hybrid_infer.errors import ContextLengthError, HybridInferError
from hybrid_infer.events import (
    Answered,
    Asked,
    AttemptFinished,
    CacheLookedUp,
    CallFailed,
    CallFinished,
    FellBack,
    Retried,
    TargetClosed,
    TargetReopened,
)
from hybrid_infer.routing.state import Decision
from hybrid_infer.routing.targets import Result

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

logger = logging.getLogger("hybrid_infer")

MAX_TOLD = 1024  # as many keys as health itself has
_LOUD = (Reason.AUTHENTICATION, Reason.QUOTA_EXCEEDED)
_TOLD_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "seed")


def suggest_wider(error: ContextLengthError, spec: ModelSpec, models: Sequence[ModelSpec]) -> None:
    """Name the alias with the narrowest window that would hold what `spec`'s does not, if any.

    Args:
        error: what is to be said of a call to `spec`.
        spec: the model that was asked.
        models: every alias.
    """
    needed = error.num_tokens
    if needed is None:
        return
    wide = [m for m in models if m.task == spec.task and (m.context_length or 0) >= needed]
    widths = [(m.context_length or 0, m.name) for m in wide]
    if widths:
        width, name = min(widths, key=lambda pair: pair[0])
        error.suggest(name, width)


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


def asked_of(request: Request) -> Asked:
    """What may be told of a request."""
    spec = request.spec
    if isinstance(request, EmbedRequest):
        return Asked(spec.task, spec.name, num_texts=len(request.texts))
    named = ((name, getattr(request, name)) for name in _TOLD_OPTIONS)
    options = tuple((name, value) for name, value in named if value is not None)
    return Asked(spec.task, spec.name, is_stream=request.stream, options=options)


def answered_of(result: Result) -> Answered:
    """What may be told of a result; of a stream's first part, nothing."""
    if isinstance(result, EmbedReply):
        return Answered(result.prompt_tokens, dim=result.vectors.shape[1])
    if isinstance(result, ChatReply):
        reasons = tuple(choice.finish_reason for choice in result.choices)
        return Answered(result.usage.prompt_tokens, result.usage.completion_tokens, reasons)
    return Answered()


def report_finished(session: Session, call: PlannedCall, decision: Decision) -> Route:
    """Tell the observer and the log that a call was served; its route."""
    route, spec = route_of(session, call, decision), call.request.spec
    report_attempts(session, spec, route.attempts)
    if decision.reason.is_fallback:
        report_fallback(session, call, decision, call.plan.order[0].name)
    if session.is_observed:
        asked, answered = asked_of(call.request), answered_of(decision.result)
        session.on_event(CallFinished(spec.name, route, asked, answered))
    return route


def report_attempts(session: Session, spec: ModelSpec, attempts: tuple[Attempt, ...]) -> None:
    """Tell the observer of tries, and the log of those that only a person can mend."""
    for attempt in attempts:
        if attempt.reason in _LOUD and (attempt.target, attempt.reason) not in session.warned:
            session.warned.add((attempt.target, attempt.reason))
            logger.warning(
                "remote %s refused %s (%s); other targets serve while this lasts",
                attempt.target,
                spec.name,
                attempt.reason,
            )
    if not session.is_observed:
        return
    failed: dict[str, Reason] = {}
    for attempt in attempts:
        before = failed.get(attempt.target)
        if before is not None:
            session.on_event(Retried(spec.name, attempt.target, before, spec.task))
        session.on_event(AttemptFinished(spec.name, attempt, spec.task))
        if attempt.reason is not None:
            failed[attempt.target] = attempt.reason
        _report_closure(session, spec, attempt)


def _report_closure(session: Session, spec: ModelSpec, attempt: Attempt) -> None:
    """Tell that a remote has closed to later calls, or that it serves again."""
    target = session.targets.get(attempt.target)
    if target is None:
        return
    key = (target.name, spec.name)
    if attempt.reason is None:
        if session.told_closed.pop(key, None) is not None:
            session.on_event(TargetReopened(spec.name, target.name, spec.task))
        return
    closure = session.health.closed(target, spec)
    if closure is None or closure.until <= session.told_closed.get(key, 0.0):
        return
    if len(session.told_closed) >= MAX_TOLD:
        session.told_closed.clear()  # at worst a closure is told twice
    session.told_closed[key] = closure.until
    seconds = closure.until - session.clock()
    session.on_event(TargetClosed(spec.name, target.name, closure.reason, seconds, spec.task))


def report_fallback(
    session: Session, call: PlannedCall, decision: Decision, from_target: str
) -> None:
    """Tell the observer that the first choice did not serve."""
    if session.is_observed:
        spec, to_target = call.request.spec, decision.target.name
        session.on_event(FellBack(spec.name, from_target, to_target, decision.reason, spec.task))


def report_failure(
    session: Session, request: Request, error: HybridInferError, started_at: float
) -> None:
    """Tell the observer and the log that a call ended with an error."""
    spec = request.spec
    if isinstance(error, ContextLengthError):
        suggest_wider(error, spec, session.registry.models)
    report_attempts(session, spec, error.attempts)
    if session.is_observed:
        seconds = session.clock() - started_at
        name, asked = type(error).__name__, asked_of(request)
        session.on_event(CallFailed(spec.name, name, error.attempts, asked, seconds))


def report_lookup(session: Session, request: Request, hits: int, misses: int) -> None:
    """Tell the observer what the cache knew."""
    if session.is_observed:
        session.on_event(CacheLookedUp(request.spec.name, hits, misses, request.spec.task))


def report_cache_hit(session: Session, request: Request, route: Route, answered: Answered) -> None:
    """Tell the observer that the cache has answered a call."""
    if session.is_observed:
        session.on_event(CallFinished(request.spec.name, route, asked_of(request), answered))
