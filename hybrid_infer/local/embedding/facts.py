"""What is told of a batch that was computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hybrid_infer.local.embedding.job import EmbedJob


class BatchFacts(NamedTuple):
    """What is known of a batch that was computed.

    Attributes:
        rows: its sequences.
        tokens: of all of them.
        longest: tokens of the longest.
        seconds: how long it took.
        waiting: sequences that waited when it ended.
        queue_waits: how long each request waited of which it is the first batch.
    """

    rows: int
    tokens: int
    longest: int
    seconds: float
    waiting: int = 0
    queue_waits: tuple[float, ...] = (0.0,)


def take_first_waits(jobs: Sequence[EmbedJob], now: float) -> tuple[float, ...]:
    """How long each of `jobs` has waited whose first batch begins now; each is told of once."""
    waits = tuple(now - job.queued_at for job in jobs if job.queued_at is not None)
    for job in jobs:
        job.queued_at = None
    return waits
