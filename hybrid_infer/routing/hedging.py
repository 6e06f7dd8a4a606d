"""Hedging: a remote that is slower than usual gets company from the warm local copy.

Opt-in, embeddings only, and for at most one call in twenty (`HedgeBudget`). The idea is that of
J. Dean and L. A. Barroso, "The Tail at Scale".
"""

from __future__ import annotations

from hybrid_infer.routing.state import Call, Candidate, Race, Try
from hybrid_infer.routing.targets import ReadinessState

LEAST_MEASUREMENTS = 20


def hedged(call: Call, candidate: Candidate, step: Try) -> Try | Race:
    """`step`, or a race of it against the local copy."""
    context = call.context
    if not context.settings.hedge or context.hedges is None:
        return step
    local = call.local
    if local is None or local.exhausted or context.readiness().state is not ReadinessState.WARM:
        return step
    key = context.latency_key(candidate.target)
    if context.remote_latency.count(key) < LEAST_MEASUREMENTS or not context.hedges.take():
        return step
    after = context.remote_latency.p95(key, default=0.0)
    return Race(step, Try(local.target), after)
