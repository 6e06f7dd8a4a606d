"""One frozen dataclass per fact worth observing, and what delivers them.

Events carry names, counts and times; never prompts, vectors, answers or secrets. `model` is how
commands name a model (``chat/small``, or a Hub id), `operation` is its task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from hybrid_infer.datatypes.models import Task
from hybrid_infer.datatypes.route import Attempt, Reason, Route

logger = logging.getLogger("hybrid_infer")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asked for, as far as it may be told.

    Attributes:
        operation: ``"chat"`` or ``"embeddings"``.
        model: the model's name.
        is_stream: whether chunks were wanted.
        num_texts: texts to embed; None for chat.
        options: chat: ``max_tokens``, ``temperature``, ``top_p``, ``top_k``, ``seed``, those that
            have a value.
    """

    operation: Task
    model: str
    is_stream: bool = False
    num_texts: int | None = None
    options: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer consists of, as far as it may be told.

    Attributes:
        input_tokens: tokens read; None if unknown.
        output_tokens: tokens written; None if unknown, and for embeddings.
        finish_reasons: why each choice of a chat answer ended.
        dim: the length of a vector; None for chat.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reasons: tuple[str, ...] = ()
    dim: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """One try at one target ended, well or badly; told at the end of its call."""

    model: str
    attempt: Attempt
    operation: Task


@dataclass(frozen=True, slots=True)
class Retried:
    """A call asked a target again that had failed it; `reason` is what had become of the try before."""

    model: str
    target: str
    reason: Reason
    operation: Task


@dataclass(frozen=True, slots=True)
class FellBack:
    """A call was served by another target than the policy's first choice."""

    model: str
    from_target: str
    to_target: str
    reason: Reason
    operation: Task


@dataclass(frozen=True, slots=True)
class CacheLookedUp:
    """A call asked the cache: for how many texts (or one answer) it knew, or did not."""

    model: str
    hits: int
    misses: int
    operation: Task


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call returned a result; for a stream, its first chunk arrived, and `StreamEnded` follows."""

    model: str
    route: Route
    asked: Asked
    answered: Answered


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call ended with an error; `error` is its class name."""

    model: str
    error: str
    attempts: tuple[Attempt, ...]
    asked: Asked
    latency_seconds: float


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """A stream came to its end, broke, or was closed by its reader; not told of one that was lost.

    Attributes:
        model: the model's name.
        route: who served it in the end.
        asked: what the call asked for.
        answered: what came; token counts only if the stream brought them.
        error: the class name of what broke it; None if nothing did.
        is_whole: whether it had its finish_reason.
        duration_seconds: from the call's start to this end.
    """

    model: str
    route: Route
    asked: Asked
    answered: Answered
    error: str | None
    is_whole: bool
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class TargetClosed:
    """A remote is left alone after a failure: a named wait, or an open breaker."""

    model: str
    target: str
    reason: Reason
    seconds: float
    operation: Task


@dataclass(frozen=True, slots=True)
class TargetReopened:
    """A remote that had been left alone has served this model again."""

    model: str
    target: str
    operation: Task


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
    """A local copy that had finished loading left memory.

    Attributes:
        model: which, as `ModelLoaded` named it.
        reason: ``asked``, ``memory`` (for another model), ``idle`` or ``closed`` (its client is).
    """

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class BatchComputed:
    """The local embedding engine computed one batch; `model` is the repository id.

    Attributes:
        model: the repository id.
        rows: texts in it.
        tokens: their tokens.
        forward_seconds: how long it took.
        waiting: texts that were tokenised and waited at that moment.
        padded_tokens: places that were computed beyond those of `tokens`.
        queue_wait_seconds: of each call whose first texts are in it, the time until it began.
        tokenize_seconds: what tokenising took since the batch before, on all threads together.
    """

    model: str
    rows: int
    tokens: int
    forward_seconds: float
    waiting: int
    padded_tokens: int = 0
    queue_wait_seconds: tuple[float, ...] = ()
    tokenize_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RemoteQuarantined:
    """A remote's vectors are not those of the model, so it is not asked for it for a while."""

    model: str
    target: str
    cos_min: float | None
    seconds: float
    operation: Task = field(default="embeddings", init=False)


Event: TypeAlias = (
    AttemptFinished
    | Retried
    | FellBack
    | CacheLookedUp
    | CallFinished
    | CallFailed
    | StreamEnded
    | TargetClosed
    | TargetReopened
    | ModelLoading
    | ModelLoaded
    | ModelUnloaded
    | BatchComputed
    | RemoteQuarantined
)
Observer: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer of a client that was given none."""


def guarded(observer: Observer | None) -> Observer:
    """Wrap a user's observer so that its failure is logged and never breaks a call."""
    if observer is None:
        return ignore
    return observer if isinstance(observer, Audience) else Audience([observer])


class Audience:
    """Several observers as one; if one raises, that is logged and the others are told.

    Args:
        observers: each may have an attribute ``kinds``, a frozen set of the only types of events that
            it is told; None is told nothing.
    """

    __slots__ = ("_by_kind", "_observers")

    def __init__(self, observers: Iterable[Observer | None]) -> None:
        self._observers = [(each, _kinds(each)) for each in observers if each is not None]
        self._by_kind: dict[type[Event], tuple[Observer, ...]] = {}

    def __call__(self, event: Event) -> None:
        """Tell those who want to know."""
        kind = type(event)
        told = self._by_kind.get(kind)
        if told is None:
            told = self._by_kind[kind] = tuple(
                observer for observer, kinds in self._observers if kinds is None or kind in kinds
            )
        for observer in told:
            try:
                observer(event)
            except Exception:  # the call that is being observed must survive any observer
                logger.exception("on_event raised on %s", kind.__name__)


def _kinds(observer: Observer) -> frozenset[type[Event]] | None:
    """The kinds of events that an observer names; None if it names none, whatever else it has."""
    kinds = getattr(observer, "kinds", None)
    return kinds if isinstance(kinds, frozenset) else None
