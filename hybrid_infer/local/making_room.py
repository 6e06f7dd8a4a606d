"""How a model that is about to be loaded gets its place: idle ones leave where that helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybrid_infer.errors import InsufficientMemoryError
from hybrid_infer.local.entries import Decide
from hybrid_infer.local.placement import Claim, Placement

# The claims of the other models: of idle ones (True), of all that stay (False), or of both (None).
ClaimsOf = Callable[[bool | None], Sequence[Claim]]


def find_room(decide: Decide, claims_of: ClaimsOf, evict_one: Callable[[], bool]) -> Placement:
    """Decide where a model goes, and drop idle ones, one by one, until it fits.

    None is dropped for a model that would not fit, or would still need the CPU's memory beside a
    GPU's, if all idle ones were gone.

    Args:
        decide: a placement, or a refusal, from the claims of those that stay and of those that are
            taken for gone.
        claims_of: what other models claim.
        evict_one: drops the idle model that was used longest ago; False if there is none.

    Raises:
        InsufficientMemoryError: it does not fit, whoever leaves.
    """
    while True:
        try:
            placement = decide(claims_of(None), ())
        except InsufficientMemoryError:
            if not (_would_help(decide, claims_of) and evict_one()):
                raise
        else:
            if not (placement.is_offloaded and _would_help(decide, claims_of) and evict_one()):
                return placement


def _would_help(decide: Decide, claims_of: ClaimsOf) -> bool:
    gone = claims_of(True)
    if not gone:
        return False
    try:
        return not decide(claims_of(False), gone).is_offloaded
    except InsufficientMemoryError:
        return False
