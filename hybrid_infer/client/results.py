"""From a flow's decision to what the caller gets: the reply with its route."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from hybrid_infer.client.calls import PlannedCall, num_units
from hybrid_infer.client.continuing import Continuing
from hybrid_infer.client.reporting import report_finished
from hybrid_infer.client.streams import AsyncChatStream, ChatStream
from hybrid_infer.datatypes.chat import ChatCompletion
from hybrid_infer.datatypes.embeddings import Embeddings, EmbeddingSpace, EmbeddingUsage
from hybrid_infer.datatypes.replies import (
    AsyncPartStream,
    ChatReply,
    EmbedReply,
    PartStream,
    Provenance,
)
from hybrid_infer.datatypes.requests import EmbedRequest
from hybrid_infer.datatypes.route import Reason, Route
from hybrid_infer.routing.state import Decision

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session


def embeddings(session: Session, call: PlannedCall, decision: Decision) -> Embeddings:
    """The result of ``embed``."""
    reply = cast("EmbedReply", decision.result)
    request = cast("EmbedRequest", call.request)
    if decision.target.kind == "local" and call.was_warm:
        seconds = decision.attempts[-1].latency_seconds / num_units(request)
        session.latency.record(request.spec.name, seconds)
    route = report_finished(session, call, decision)
    if decision.target.kind == "remote" and session.canary.watches(
        decision.target.name, request.spec
    ):
        from hybrid_infer.client.comparing import compare_soon  # goldens are a lot to import

        compare_soon(session, decision.target, request.spec)
    return Embeddings(
        vectors=reply.vectors,
        route=route,
        usage=EmbeddingUsage(reply.prompt_tokens, _truncations(request, reply)),
        space=space_of(session, request, reply.vectors.shape[1], reply.provenance),
    )


def _truncations(request: EmbedRequest, reply: EmbedReply) -> int | None:
    """What the backend counted, or at least what was cut before it was asked."""
    if reply.truncations is None and request.cut_texts:
        return len(request.cut_texts)
    return reply.truncations


def no_embeddings(session: Session, request: EmbedRequest) -> Embeddings:
    """The result of ``embed([])``: nothing was asked, so nobody is.

    Raises:
        EngineClosedError: the client is closed.
    """
    session.check_open()
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
        space=space_of(session, request, dim),
    )


def space_of(
    session: Session, request: EmbedRequest, dim: int, provenance: Provenance | None = None
) -> EmbeddingSpace:
    """The space that the vectors of `request` live in.

    Args:
        session: the client's.
        request: what was asked.
        dim: length of a vector.
        provenance: of whoever answered; None: nobody has yet.
    """
    spec, prompt, quantization = session.local.completed(request.spec), request.prompt, None
    if provenance is not None:
        quantization = provenance.quantization
        # A copy that came after the request was made has a prompt that the request knows nothing of.
        prompt = prompt if provenance.prompt is None else provenance.prompt
    if spec.prompt != prompt:
        spec = replace(spec, prompt=prompt)
    return EmbeddingSpace.of(spec, normalize=request.normalize, dim=dim, quantisation=quantization)


def chat_completion(session: Session, call: PlannedCall, decision: Decision) -> ChatCompletion:
    """The result of ``chat_completion``."""
    reply = cast("ChatReply", decision.result)
    if decision.target.kind == "local" and call.was_warm:
        session.latency.record(call.request.spec.name, decision.attempts[-1].latency_seconds)
    route = report_finished(session, call, decision)
    return ChatCompletion(
        id=reply.id,
        created=reply.created,
        model=route.model,
        choices=reply.choices,
        usage=reply.usage,
        route=route,
        timings=reply.timings,
    )


def chat_stream(session: Session, call: PlannedCall, decision: Decision) -> ChatStream:
    """The result of ``chat_completion(stream=True)``."""
    parts = cast("PartStream", decision.result)
    route = report_finished(session, call, decision)
    continuing = Continuing(session, call, decision, route.attempts)
    return ChatStream(parts, route, continuing, owner=session)


def async_chat_stream(session: Session, call: PlannedCall, decision: Decision) -> AsyncChatStream:
    """The result of ``await chat_completion(stream=True)``."""
    parts = cast("AsyncPartStream", decision.result)
    route = report_finished(session, call, decision)
    continuing = Continuing(session, call, decision, route.attempts)
    return AsyncChatStream(parts, route, continuing, owner=session)
