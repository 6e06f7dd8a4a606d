"""From a flow's decision to what the caller gets: the reply with its route, and the events."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from hybrid_infer.client.drive import Dispatch
from hybrid_infer.client.streams import AsyncChatStream, ChatStream
from hybrid_infer.datatypes.chat import ChatCompletion
from hybrid_infer.datatypes.embeddings import Embeddings, EmbeddingSpace, EmbeddingUsage
from hybrid_infer.datatypes.replies import AsyncPartStream, ChatReply, EmbedReply, PartStream
from hybrid_infer.datatypes.requests import EmbedRequest, Request
from hybrid_infer.datatypes.route import Attempt, Reason, Route
from hybrid_infer.errors import HybridInferError
from hybrid_infer.events import AttemptFinished, CallFailed, CallFinished, FellBack
from hybrid_infer.routing.flow import Flow
from hybrid_infer.routing.policy import Plan
from hybrid_infer.routing.state import Decision

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session

logger = logging.getLogger("hybrid_infer")

TEXTS_PER_UNIT = 32
_LOUD = (Reason.AUTHENTICATION, Reason.QUOTA_EXCEEDED)


@dataclass(slots=True)
class Call:
    """One planned call, ready to be driven."""

    request: Request
    plan: Plan
    flow: Flow
    dispatch: Dispatch
    started_at: float
    was_warm: bool


def num_units(request: EmbedRequest) -> int:
    """How many times the unit that local latency is measured in: 32 texts."""
    return max(1, -(-len(request.texts) // TEXTS_PER_UNIT))


def embeddings(session: Session, call: Call, decision: Decision) -> Embeddings:
    """The result of ``embed``."""
    reply = cast("EmbedReply", decision.result)
    request = cast("EmbedRequest", call.request)
    if decision.target.kind == "local" and call.was_warm:
        seconds = decision.attempts[-1].latency_seconds / num_units(request)
        session.latency.record(request.spec.name, seconds)
    route = _finish(session, call, decision)
    if decision.target.kind == "remote":
        session.canary.served(decision.target, request.spec)
    return Embeddings(
        vectors=reply.vectors,
        route=route,
        usage=EmbeddingUsage(reply.prompt_tokens, _truncations(request, reply)),
        space=_space(session, request, reply.vectors.shape[1]),
    )


def _truncations(request: EmbedRequest, reply: EmbedReply) -> int | None:
    """What the backend counted, or at least what was cut before it was asked."""
    if reply.truncations is None and request.cut_texts:
        return len(request.cut_texts)
    return reply.truncations


def no_embeddings(session: Session, request: EmbedRequest) -> Embeddings:
    """The result of ``embed([])``: nothing was asked, so nobody is."""
    dim = request.spec.dim or 0
    route = Route(
        backend="local",
        provider=None,
        model=request.spec.repo,
        revision=request.spec.revision,
        verified=True,
        reason=Reason.PRIMARY,
        detail="no texts, nothing computed",
        attempts=(),
        latency_seconds=0.0,
    )
    return Embeddings(
        vectors=np.zeros((0, dim), np.float32),
        route=route,
        usage=EmbeddingUsage(0, 0),
        space=_space(session, request, dim),
    )


def _space(session: Session, request: EmbedRequest, dim: int) -> EmbeddingSpace:
    spec = session.local.completed(request.spec)
    return EmbeddingSpace.of(spec, normalize=request.normalize, dim=dim)


def chat_completion(session: Session, call: Call, decision: Decision) -> ChatCompletion:
    """The result of ``chat_completion``."""
    reply = cast("ChatReply", decision.result)
    if decision.target.kind == "local" and call.was_warm:
        session.latency.record(call.request.spec.name, decision.attempts[-1].latency_seconds)
    route = _finish(session, call, decision)
    return ChatCompletion(reply.id, reply.created, route.model, reply.choices, reply.usage, route)


def chat_stream(session: Session, call: Call, decision: Decision) -> ChatStream:
    """The result of ``chat_completion(stream=True)``."""
    parts = cast("PartStream", decision.result)
    return ChatStream(parts, _finish(session, call, decision), owner=session)


def async_chat_stream(session: Session, call: Call, decision: Decision) -> AsyncChatStream:
    """The result of ``await chat_completion(stream=True)``."""
    parts = cast("AsyncPartStream", decision.result)
    return AsyncChatStream(parts, _finish(session, call, decision), owner=session)


def _finish(session: Session, call: Call, decision: Decision) -> Route:
    """The route of a served call; tells the observer and the log."""
    provenance = decision.result.provenance
    is_local = decision.target.kind == "local"
    route = Route(
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
    )
    model = call.request.spec.name
    _report_attempts(session, model, route.attempts)
    if decision.reason not in (Reason.PRIMARY, Reason.REQUESTED):
        _report_fallback(session, call, decision)
    session.on_event(CallFinished(model, route))
    return route


def _report_attempts(session: Session, model: str, attempts: tuple[Attempt, ...]) -> None:
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


def _report_fallback(session: Session, call: Call, decision: Decision) -> None:
    model, to_target = call.request.spec.name, decision.target.name
    from_target = call.plan.order[0].name
    logger.info("%s served by %s instead of %s: %s", model, to_target, from_target, decision.reason)
    session.on_event(FellBack(model, from_target, to_target, decision.reason))


def report_failure(session: Session, call: Call, error: HybridInferError) -> None:
    """Tell the observer and the log that a call ended with an error."""
    model = call.request.spec.name
    _report_attempts(session, model, error.attempts)
    session.on_event(CallFailed(model, type(error).__name__, error.attempts))
