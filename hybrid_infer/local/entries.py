"""What a pool holds under a key, and what passes between it, those who load and those who call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from hybrid_infer.local.answer import Answer
from hybrid_infer.local.placement import Claim, Placement


class Engine(Protocol):
    """What the pool needs of an engine."""

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether it computes, or will, for a call that has it no more; asked under a lock."""
        ...

    def close(self) -> None:
        """Refuse what waits."""
        ...


EngineT = TypeVar("EngineT", bound=Engine)
Key = tuple[str, ...]
# Claims of the models that stay, and of those that are taken for gone.
Decide = Callable[[Sequence[Claim], Sequence[Claim]], Placement]


@dataclass(frozen=True, slots=True)
class Loading:
    """What a load may ask of the pool, on the thread that loads.

    Attributes:
        place: finds the model's place, once others have made room for it where that is needed.
        enter: told each stage of the load.
    """

    place: Callable[[Decide], Placement]
    enter: Callable[[str], None]


Load = Callable[[Loading], EngineT]


@dataclass(slots=True, eq=False)
class Entry(Generic[EngineT]):
    """A model that is loaded, or on its way; changed under the pool's lock.

    Attributes:
        future: gets the engine.
        started_at: when its load, or the present stage of it, began, by the pool's clock.
        last_used: when it was last wanted.
        stage: how far its load is.
        claim: what it may come to hold; None before it has a place.
        num_leases: calls that use it, or wait for it.
    """

    future: Answer[EngineT]
    started_at: float
    last_used: float
    stage: str = ""
    claim: Claim | None = None
    num_leases: int = 0

    @property
    def engine(self) -> EngineT | None:
        """The engine, once it is there and as long as it takes requests."""
        future = self.future  # once: who drops the engine puts another in its place
        if not future.done() or future.error() is not None:
            return None
        engine = future.result()
        return None if engine.is_closed else engine

    @property
    def is_in_use(self) -> bool:
        """Whether a call needs it."""
        engine = self.engine
        return self.num_leases > 0 or (engine is not None and engine.is_busy)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What the pool knows of one key.

    Attributes:
        stage: how far its load is; None unless it is being loaded.
        started_at: when that stage began, by the pool's clock.
        claim: what it may come to hold; None before that is known.
        last_used: when it served last, by the pool's clock; None unless it is loaded.
        failure: why its last load failed; None if it did not.
        failed_at: when that was, by the pool's clock.
    """

    stage: str | None = None
    started_at: float | None = None
    claim: Claim | None = None
    last_used: float | None = None
    failure: str | None = None
    failed_at: float | None = None


class Lease(Generic[EngineT]):
    """A claim to an engine, from before it is loaded: it is not evicted while a ``with`` block runs.

    Attributes:
        future: gets the engine.
    """

    def __init__(self, future: Answer[EngineT], release: Callable[[], None]) -> None:
        self.future, self.release = future, release

    def __enter__(self) -> EngineT:
        return self.future.result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
