"""One planned call, ready to be driven."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_infer.client.drive import Dispatch
from hybrid_infer.datatypes.requests import ChatRequest, EmbedRequest, Request
from hybrid_infer.routing.flow import Flow
from hybrid_infer.routing.policy import Plan

TEXTS_PER_UNIT = 32


@dataclass(slots=True)
class PlannedCall:
    """What a driver runs, and what its result is made from."""

    request: Request
    plan: Plan
    flow: Flow
    dispatch: Dispatch
    started_at: float
    was_warm: bool


def num_units(request: EmbedRequest) -> int:
    """How many times the unit that latencies are measured in: 32 texts."""
    return max(1, -(-len(request.texts) // TEXTS_PER_UNIT))


def num_answers(request: ChatRequest) -> int:
    """How many answers a call wants."""
    wanted: int = request.passthrough.get("n", 1)
    return wanted
