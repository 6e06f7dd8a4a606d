"""How a validated request becomes a flow that is ready to be driven: the facts of the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid_infer.client.calls import PlannedCall, num_units
from hybrid_infer.client.drive import Dispatch
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.models import RemoteSpec
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    ModelNotAvailableError,
)
from hybrid_infer.registry.urls import TOKENS_PAGE
from hybrid_infer.remote.dialects import refusal_of_option
from hybrid_infer.remote.keys import is_huggingface_host
from hybrid_infer.routing.flow import run
from hybrid_infer.routing.policy import Plan, RemoteFact, check_route, make_plan
from hybrid_infer.routing.state import FlowContext
from hybrid_infer.routing.targets import Exclusion, ReadinessState
from hybrid_infer.snapshots.resolve import offline_variable

if TYPE_CHECKING:
    from hybrid_infer.client.session import Session


def planned(session: Session, request: Request, route: Any, limit: Deadline) -> PlannedCall:
    """Plan a validated request.

    Raises:
        HybridInferError: the session is closed, `route` is wrong, or no target may serve the call.
    """
    session.check_open()
    check_route(route, session.policy, session.targets)
    may_download = may_ask_remotes = route != "local" and session.policy != "local-only"
    remotes = session.remotes if may_ask_remotes else ()
    plan = make_plan(
        policy=session.policy,
        route=route,
        remotes=[_remote_fact(session, remote, request) for remote in remotes],
        local=session.local.readiness(request.spec, may_download=may_download),
        unsupported=session.local.unsupported(request),
    )
    return call_of(session, request, plan, limit, may_download=may_download)


def call_of(
    session: Session, request: Request, plan: Plan, limit: Deadline, *, may_download: bool
) -> PlannedCall:
    """The flow of a plan, and what a driver needs for it."""
    context = _context(session, request, limit, may_download=may_download)
    dispatch = Dispatch(
        backends=session.backends.get,
        preload=lambda: session.local.preload(request.spec),
        request=request,
        deadline=limit,
        clock=session.clock,
        pauses=session.backends.pauses,
    )
    return PlannedCall(
        request=request,
        plan=plan,
        flow=run(plan, context),
        dispatch=dispatch,
        started_at=session.clock(),
        was_warm=plan.local.state is ReadinessState.WARM,
    )


def _context(
    session: Session, request: Request, limit: Deadline, *, may_download: bool
) -> FlowContext:
    is_chat = isinstance(request, ChatRequest)
    is_one_unit = isinstance(request, ChatRequest) or num_units(request) == 1
    return FlowContext(
        spec=request.spec,
        deadline=limit,
        settings=session.settings.routing,
        health=session.health,
        pacing=session.pacing,
        remote_latency=session.remote_latency,
        clock=session.clock,
        randomness=session.randomness,
        readiness=lambda: session.local.readiness(request.spec, may_download=may_download),
        local_seconds=_expected_local_seconds(session, request, limit),
        # A whole chat answer may take long; the first sign of anything else may not.
        has_first_answer_limit=not isinstance(request, ChatRequest) or request.stream,
        strict_auth=session.options.strict_auth,
        is_one_unit=is_one_unit,
        is_stream=isinstance(request, ChatRequest) and request.stream,
        hedges=session.hedges if is_one_unit and not is_chat else None,
        is_closed=lambda: session.backends.is_closed,
    )


def _expected_local_seconds(session: Session, request: Request, deadline: Deadline) -> float:
    """The warm local copy's time to its first progress, or, under a fixed deadline, its end."""
    routing, name = session.settings.routing, request.spec.name
    if isinstance(request, EmbedRequest):
        unit = session.latency.p95(name, default=routing.local_embed_seconds)
        return unit if deadline.renewable else unit * num_units(request)
    return session.latency.p95(name, default=routing.local_chat_seconds)


def _remote_fact(session: Session, remote: RemoteSpec, request: Request) -> RemoteFact:
    target, spec = session.targets[remote.name], request.spec
    if (refusal := refusal_of_option(remote, request)) is not None:
        detail = refusal.argument or ""
        return RemoteFact(target, Exclusion(target, Reason.UNSUPPORTED, detail, refusal))
    if remote.model_id(spec) is None:
        error = ModelNotAvailableError(f"remote {remote.name!r} does not serve {spec.name}")
        return RemoteFact(target, Exclusion(target, Reason.MODEL_UNAVAILABLE, spec.name, error))
    if not is_huggingface_host(remote.base_url):
        return RemoteFact(target)
    variable = offline_variable()
    if variable is not None:
        offline = APIConnectionError(
            f"{variable} is set, so remote {remote.name!r} is not used; unset it to go online"
        )
        return RemoteFact(target, Exclusion(target, Reason.OFFLINE, variable, offline))
    if not session.backends.has_key(remote):
        no_key = AuthenticationError(
            f"no API key for remote {remote.name!r}: set HF_TOKEN or pass api_key=; "
            f"get one at {TOKENS_PAGE}"
        )
        return RemoteFact(target, Exclusion(target, Reason.NO_API_KEY, "", no_key))
    return RemoteFact(target)
