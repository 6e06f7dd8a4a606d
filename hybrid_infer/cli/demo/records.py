"""What the demo writes down: calls, phases, and the numbers drawn from them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Server = Literal["remote", "local"]
Task = Literal["embed", "chat"]

COSINE_BOUNDS = {"float32": 0.99999, "bfloat16": 0.999}


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of the demo.

    Attributes:
        phase: index of its phase.
        task: what it asked for.
        started: seconds since the demo's clock started.
        latency_seconds: until its result, or its error.
        server: who served it; None if it was lost.
        reason: `Route.reason`; None if it was lost.
        dtype: the local computation's dtype; None otherwise.
        error: class name and message if it was lost.
        batch: which batch of texts an embed call carried; None for chat.
        vectors: what an embed call returned, float32 ``(n, dim)``.
    """

    phase: int
    task: Task
    started: float
    latency_seconds: float
    server: Server | None
    reason: str | None = None
    dtype: str | None = None
    error: str | None = None
    batch: int | None = None
    vectors: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: what the remote did, from when to when, and the requests that reached it."""

    name: str
    started: float
    ended: float
    requests: int


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A phase in numbers; a cosine is None where nothing was served locally."""

    phase: str
    calls: int
    lost: int
    served_remote: int
    served_local: int
    requests_at_remote: int
    p50_milliseconds: float
    cosine_min: float | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo found out; `chat` says which model the chat calls ran on."""

    rows: tuple[PhaseRow, ...]
    calls: int
    lost: int
    cosine_min: float | None
    cosine_bound: float
    errors: tuple[str, ...]
    chat: str

    @property
    def passed(self) -> bool:
        """No call lost, and every local vector within its dtype's bound of the remote one."""
        return (
            self.lost == 0 and self.cosine_min is not None and self.cosine_min >= self.cosine_bound
        )


def summarise(calls: list[Call], phases: list[Phase], *, chat: str) -> Report:
    """Count, and compare every locally served vector with the remote's vector of the same text."""
    reference = {
        call.batch: call.vectors
        for call in calls
        if call.server == "remote" and call.vectors is not None
    }
    rows = tuple(
        _row(phase, [call for call in calls if call.phase == index], reference)
        for index, phase in enumerate(phases)
    )
    cosines = [row.cosine_min for row in rows if row.cosine_min is not None]
    dtypes = {call.dtype for call in calls if call.dtype and call.task == "embed"}
    bounds = [COSINE_BOUNDS.get(dtype, COSINE_BOUNDS["bfloat16"]) for dtype in dtypes]
    return Report(
        rows=rows,
        calls=len(calls),
        lost=sum(row.lost for row in rows),
        cosine_min=min(cosines, default=None),
        cosine_bound=min(bounds, default=COSINE_BOUNDS["float32"]),
        errors=tuple(sorted({call.error for call in calls if call.error})),
        chat=chat,
    )


def _row(
    phase: Phase, calls: list[Call], reference: dict[int | None, NDArray[np.float32]]
) -> PhaseRow:
    embeds = [call for call in calls if call.task == "embed"]
    cosines = [
        _lowest_cosine(call.vectors, reference[call.batch])
        for call in embeds
        if call.server == "local" and call.vectors is not None and call.batch in reference
    ]
    dtypes = sorted({call.dtype for call in embeds if call.dtype})
    return PhaseRow(
        phase=phase.name,
        calls=len(calls),
        lost=sum(call.server is None for call in calls),
        served_remote=sum(call.server == "remote" for call in calls),
        served_local=sum(call.server == "local" for call in calls),
        requests_at_remote=phase.requests,
        p50_milliseconds=1000 * statistics.median([c.latency_seconds for c in embeds] or [0.0]),
        cosine_min=min(cosines, default=None),
        dtype=", ".join(dtypes) or None,
    )


def _lowest_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())
