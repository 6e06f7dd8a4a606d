"""One frozen dataclass per fact worth observing, and the function that delivers them.

Events carry names, counts and times; never prompts, vectors, answers or secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hybrid_infer.datatypes.route import Attempt, Reason, Route

logger = logging.getLogger("hybrid_infer")


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """One try at one target ended, well or badly."""

    model: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class FellBack:
    """A call was served by another target than the policy's first choice."""

    model: str
    from_target: str
    to_target: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call returned a result; for a stream, its first chunk arrived."""

    model: str
    route: Route


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call ended with an error; `error` is its class name."""

    model: str
    error: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """A local copy has come to another stage of its load.

    Attributes:
        model: which.
        stage: ``downloading``, ``placing`` (which waits for memory) or ``loading``.
        seconds_left: what this stage and those behind it are expected to take.
    """

    model: str
    stage: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A local copy finished loading."""

    model: str
    revision: str | None
    dtype: str
    load_seconds: float
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A local copy left memory; `reason` is ``asked``, ``memory`` (for another model) or ``idle``."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoteQuarantined:
    """A remote's vectors are not those of the model, so it is not asked for it for a while."""

    model: str
    target: str
    cos_min: float | None
    seconds: float


Event: TypeAlias = (
    AttemptFinished
    | FellBack
    | CallFinished
    | CallFailed
    | ModelLoading
    | ModelLoaded
    | ModelUnloaded
    | RemoteQuarantined
)
Observer: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer of a client that was given none."""


def guarded(observer: Observer | None) -> Observer:
    """Wrap a user's observer so that its failure is logged and never breaks a call."""
    if observer is None:
        return ignore

    def deliver(event: Event) -> None:
        try:
            observer(event)
        except Exception:  # the call that is being observed must survive any observer
            logger.exception("on_event raised on %s", type(event).__name__)

    return deliver
