"""The nouns of routing: a target, its readiness, an outcome, and what a backend must offer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias

from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import AsyncPartStream, ChatReply, EmbedReply, PartStream
from hybrid_infer.datatypes.requests import ChatRequest, Request
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import HybridInferError

Reply: TypeAlias = EmbedReply | ChatReply
Result: TypeAlias = EmbedReply | ChatReply | PartStream | AsyncPartStream


@dataclass(frozen=True, slots=True)
class Target:
    """Somewhere a call can be sent.

    Attributes:
        name: a remote's name, or ``"local"``.
        kind: which of the two it is.
        host: where a remote is; remotes at one host share what is known of it.
    """

    name: str
    kind: Literal["remote", "local"]
    host: str = ""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A target that a plan leaves out, why, and the error to raise if nothing else is left."""

    target: Target
    reason: Reason
    detail: str
    error: HybridInferError


class ReadinessState(StrEnum):
    """How far a local copy is from answering."""

    WARM = "warm"
    LOADING = "loading"
    COLD = "cold"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Readiness:
    """A local copy's distance from answering.

    Attributes:
        state: warm, loading, cold or absent.
        seconds: time until it can start on a request: 0 when warm, the rest of the load when
            loading, the expected load when cold.
        exclusion: why it is absent; None otherwise.
        may_be_quantized: whether its weights are, or may turn out to be, smaller than the original
            ones.
    """

    state: ReadinessState
    seconds: float = 0.0
    exclusion: Exclusion | None = None
    may_be_quantized: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try ended: with a result, with an error, or given up for the hedge that beat it.

    Attributes:
        elapsed_seconds: how long it took.
        result: what it gave.
        error: what it failed with.
        hedge: the successful outcome of the race's second try.
    """

    elapsed_seconds: float
    result: Result | None = None
    error: HybridInferError | None = None
    hedge: Outcome | None = None


class Backend(Protocol):
    """What the drivers need from a backend; each pair differs only in ``await``.

    Every method raises `HybridInferError` subclasses only. `stream` returns once the response
    has been accepted; the driver pulls the first part before it commits to the target.
    """

    def call(self, request: Request, deadline: Deadline) -> Reply:
        """Serve a request whole."""
        ...

    async def acall(self, request: Request, deadline: Deadline) -> Reply:
        """Serve a request whole."""
        ...

    def stream(self, request: ChatRequest, deadline: Deadline) -> PartStream:
        """Open a stream of parts."""
        ...

    async def astream(self, request: ChatRequest, deadline: Deadline) -> AsyncPartStream:
        """Open a stream of parts."""
        ...

    def close(self) -> None:
        """Release everything; later calls raise `EngineClosedError`."""
        ...

    async def aclose(self) -> None:
        """Release everything; later calls raise `EngineClosedError`."""
        ...
