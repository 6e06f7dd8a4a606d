"""How a model that is about to be loaded gets its place: idle ones leave where that helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hybrid_infer.errors import InsufficientMemoryError
from hybrid_infer.local.entries import Decide
from hybrid_infer.local.placement import Claim, Placement


class OtherClaims(NamedTuple):
    """What the other models claim.

    Attributes:
        idle: of those that may leave.
        staying: of those that are in use, or on their way.
    """

    idle: tuple[Claim, ...]
    staying: tuple[Claim, ...]


def find_room(
    decide: Decide, claims: Callable[[], OtherClaims], evict_one: Callable[[], bool]
) -> Placement:
    """Decide where a model goes, and drop idle ones, one by one, until it fits.

    None is dropped for a model that would not fit, or would still need the CPU's memory beside a
    GPU's, if all idle ones were gone.

    Args:
        decide: a placement, or a refusal, from the claims of those that stay and of those that are
            taken for gone.
        claims: what other models claim now.
        evict_one: drops the idle model that was used longest ago; False if there is none.

    Raises:
        InsufficientMemoryError: it does not fit, whoever leaves.
    """
    while True:
        others = claims()
        try:
            placement = decide((*others.idle, *others.staying), ())
        except InsufficientMemoryError:
            if not (_would_help(decide, others) and evict_one()):
                raise
        else:
            if not (placement.is_offloaded and _would_help(decide, others) and evict_one()):
                return placement


def _would_help(decide: Decide, others: OtherClaims) -> bool:
    """Whether it would fit without the CPU's memory beside a GPU's, if all idle ones were gone."""
    if not others.idle:
        return False
    try:
        return not decide(others.staying, others.idle).is_offloaded
    except InsufficientMemoryError:
        return False
