"""What becomes of a stream that breaks after its first chunk.

The local copy has the same weights, so it can go on with a plain text where the remote left off;
before any text is out, whoever comes next in the plan can simply start over. Everything else is
an interruption that the caller gets to see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid_infer.routing.policy import Plan
from hybrid_infer.routing.targets import Readiness, ReadinessState, Target

MOST_READY_SECONDS = 5.0  # a reader is waiting in the middle of a sentence


@dataclass(frozen=True, slots=True)
class BrokenStream:
    """A stream as it was when it broke.

    Attributes:
        served_by: who sent it.
        has_text: whether any of its text is out.
        has_tools: whether any part of a tool call is out.
        may_continue: whether the caller wants it to go on.
    """

    served_by: Target
    has_text: bool
    has_tools: bool
    may_continue: bool


def continuation_plan(plan: Plan, broken: BrokenStream, local: Readiness) -> Plan | str:
    """The plan on which a broken stream goes on, or why it cannot.

    Args:
        plan: the one that it was started on.
        broken: what it was like.
        local: the local copy's readiness now.
    """
    if not broken.may_continue:
        return "on_stream_error='raise'"
    if broken.has_tools:
        return "a tool call cannot be continued"
    others = tuple(target for target in plan.targets if target != broken.served_by)
    if not broken.has_text:
        # Nobody has read anything yet: a plain retry, elsewhere first.
        return replace(plan, targets=(*others, broken.served_by), local=local)
    return _takeover(plan, broken, local, others)


def _takeover(
    plan: Plan, broken: BrokenStream, local: Readiness, others: tuple[Target, ...]
) -> Plan | str:
    """The local copy goes on with a text, or why it cannot."""
    if broken.served_by.kind == "local":
        return "it was the local copy's own"
    here = tuple(target for target in others if target.kind == "local")
    if not here:
        excluded = next((e for e in plan.exclusions if e.target.kind == "local"), None)
        why = excluded.error.message if excluded else "the policy or route= leaves it out"
        return f"the local copy cannot take over: {why}"
    if local.may_be_quantized:
        return "the local copy is quantised: it would go on as another model"
    if local.state is ReadinessState.ABSENT or local.seconds > MOST_READY_SECONDS:
        return f"the local copy is not ready within {MOST_READY_SECONDS:g} s"
    return replace(plan, targets=here, order=here, local=local)
