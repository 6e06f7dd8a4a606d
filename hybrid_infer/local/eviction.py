"""Which loaded models leave memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT")


@dataclass(frozen=True, slots=True)
class Resident(Generic[KeyT]):
    """One loaded model.

    Attributes:
        key: which.
        last_used: when it served last, in seconds of a monotonic clock.
        is_in_use: whether a call needs it now.
    """

    key: KeyT
    last_used: float
    is_in_use: bool


def next_victim(residents: Iterable[Resident[KeyT]]) -> KeyT | None:
    """The model that was used longest ago, of those that serve no call; None if all do."""
    idle = [resident for resident in residents if not resident.is_in_use]
    return min(idle, key=lambda resident: resident.last_used).key if idle else None


def expired(residents: Iterable[Resident[KeyT]], now: float, idle_seconds: float) -> list[KeyT]:
    """The models that have served no call for `idle_seconds`."""
    return [
        resident.key
        for resident in residents
        if not resident.is_in_use and now - resident.last_used >= idle_seconds
    ]
