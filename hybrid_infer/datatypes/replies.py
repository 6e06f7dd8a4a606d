"""What a backend hands to the router: a result that has no route yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.datatypes.chat import ChatChoice, ChatUsage, ChunkChoice
from hybrid_infer.datatypes.timings import UNTIMED, ChatTimings


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a backend knows of the weights that answered; see `Route` for the fields.

    Attributes:
        prompt: embeddings: what the local copy puts before every text; None: what it was sent.
    """

    model: str
    revision: str | None
    verified: bool
    dtype: str | None = None
    quantization: str | None = None
    prompt: str | None = None


@dataclass(slots=True, eq=False)
class EmbedReply:
    """Vectors, float32 ``(n, dim)``, C-contiguous, checked for shape and finiteness.

    Not frozen: there are as many as calls, and making one would take thrice as long.
    """

    vectors: NDArray[np.float32]
    prompt_tokens: int | None
    truncations: int | None
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A whole answer."""

    id: str
    created: int
    choices: tuple[ChatChoice, ...]
    usage: ChatUsage
    provenance: Provenance
    timings: ChatTimings = UNTIMED


@dataclass(frozen=True, slots=True)
class ChatPart:
    """One event of a streamed answer; `usage` only on the last, `timings` where an answer ends."""

    choices: tuple[ChunkChoice, ...]
    usage: ChatUsage | None = None
    timings: ChatTimings | None = None


class PartStream(Protocol):
    """An open stream of parts. Raises `HybridInferError` subclasses only.

    A stream that ends without a finish_reason on its choices raises `StreamInterruptedError`
    instead of ending; `close` may be called at any time, from any thread, twice.
    """

    @property
    def id(self) -> str:
        """The answer's identifier."""
        ...

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Who answers; complete once the first part has arrived."""
        ...

    def __iter__(self) -> Iterator[ChatPart]: ...

    def __next__(self) -> ChatPart: ...

    def close(self) -> None:
        """Stop and release the stream."""
        ...


class AsyncPartStream(Protocol):
    """`PartStream`, awaited."""

    @property
    def id(self) -> str:
        """The answer's identifier."""
        ...

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Who answers; complete once the first part has arrived."""
        ...

    def __aiter__(self) -> AsyncIterator[ChatPart]: ...

    async def __anext__(self) -> ChatPart: ...

    async def aclose(self) -> None:
        """Stop and release the stream."""
        ...
