"""From a policy and the facts of the moment to an ordered plan of targets."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    APIConnectionError,
    HybridInferError,
    InvalidRequestError,
    ModelNotDownloadedError,
)
from hybrid_infer.routing.targets import Exclusion, Readiness, Target
from hybrid_infer.settings import Policy

LOCAL = Target("local", "local")


@dataclass(slots=True)
class RemoteFact:
    """A remote of the configuration, and why it cannot be used for this call, if it cannot."""

    target: Target
    exclusion: Exclusion | None = None


@dataclass(slots=True)
class Plan:
    """The targets to try, in order, and those left out.

    Attributes:
        targets: never empty.
        exclusions: the targets left out, in the order they would have been tried.
        order: all of them together, in the policy's order.
        requested: whether ``route=`` chose the first target.
        local: the local copy's readiness when the plan was made.
    """

    targets: tuple[Target, ...]
    exclusions: tuple[Exclusion, ...]
    order: tuple[Target, ...]
    requested: bool
    local: Readiness


def check_route(route: str | None, policy: Policy, remotes: Collection[str]) -> None:
    """Validate ``route=``.

    Raises:
        InvalidRequestError: it names no target, or one that the policy forbids.
    """
    if route is None:
        return
    if route not in ("local", "remote", *remotes):
        known = ", ".join(["local", "remote", *remotes])
        raise InvalidRequestError(
            f"route={route!r} names no target; choose one of: {known}", argument="route"
        )
    if (route == "local" and policy == "remote-only") or (
        route != "local" and policy == "local-only"
    ):
        raise InvalidRequestError(
            f"route={route!r} is forbidden by policy={policy!r}", argument="route"
        )


def make_plan(
    *,
    policy: Policy,
    route: str | None,
    remotes: Sequence[RemoteFact],
    local: Readiness,
    unsupported: Exclusion | None,
) -> Plan:
    """Order the targets that may serve a call.

    Args:
        policy: the client's policy.
        route: the call's ``route=``, already validated by `check_route`.
        remotes: the configured remotes in order.
        local: the local copy's readiness.
        unsupported: why the local copy cannot honour the call's options, or None.

    Raises:
        HybridInferError: nothing is left; the error says what would fix it.
    """
    entries: list[tuple[Target, Exclusion | None]] = [
        (fact.target, fact.exclusion)
        for fact in remotes
        if _wants_remote(fact.target, policy, route)
    ]
    if route == "local" or (route is None and policy != "remote-only"):
        entry = (LOCAL, unsupported or local.exclusion)
        entries.insert(0 if policy == "local-first" else len(entries), entry)
    targets = tuple([target for target, exclusion in entries if exclusion is None])
    exclusions = tuple([exclusion for _, exclusion in entries if exclusion is not None])
    if not targets:
        raise _nothing_left(exclusions)
    order = tuple([target for target, _ in entries])
    return Plan(targets, exclusions, order, route is not None, local)


def _wants_remote(target: Target, policy: Policy, route: str | None) -> bool:
    if route is None:
        return policy != "local-only"
    return route in ("remote", target.name)


def unsupported_locally(option: str, why: str = "") -> Exclusion:
    """The exclusion of a local copy that could only ignore an option.

    Args:
        option: its name.
        why: what is wrong with it, or what would help; empty if the name says enough.
    """
    because = f": {why}" if why else ""
    error = InvalidRequestError(
        f"the local copy cannot honour {option!r}{because}", argument=option
    )
    return Exclusion(LOCAL, Reason.UNSUPPORTED, f"{option}{because}", error)


def _nothing_left(exclusions: Sequence[Exclusion]) -> HybridInferError:
    """The one error for a call that no target may serve, with every reason and its fix."""
    if not exclusions:
        return APIConnectionError("no remote is configured, and the policy leaves local out")
    by_reason = {exclusion.reason: exclusion for exclusion in exclusions}
    first = (
        by_reason.get(Reason.UNSUPPORTED)
        or by_reason.get(Reason.OFFLINE)
        or next((e for e in exclusions if e.target.kind == "local"), exclusions[0])
    )
    others = [e for e in exclusions if e is not first]
    error = copy.copy(first.error)
    if others and isinstance(error, ModelNotDownloadedError):
        # Two fixes exist, and either will do: both belong in the message itself.
        error = ModelNotDownloadedError(
            f"{error.message}; or use the remote: " + "; ".join(e.error.message for e in others)
        )
        others = []
    for other in others:
        error.add_note(left_out_note(other))
    return error


def left_out_note(exclusion: Exclusion) -> str:
    """One line on why a target was left out and what would bring it in."""
    return f"{exclusion.target.name} was left out ({exclusion.reason}): {exclusion.error.message}"
