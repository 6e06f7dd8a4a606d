"""Which sequences of a batch attend together. Pure: lengths in, buckets out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST_BUCKET = 16


@dataclass(frozen=True, slots=True)
class LengthBucket:
    """Neighbours in a batch that attend together.

    Attributes:
        first: the number of the first sequence.
        count: sequences.
        length: tokens that each is padded to, in attention only; the common length, where they
            have one.
    """

    first: int
    count: int
    length: int


def length_buckets(lengths: Sequence[int]) -> list[LengthBucket]:
    """Split a batch, sorted by length, into buckets that are padded to one length each."""
    buckets: list[LengthBucket] = []
    first = 0
    while first < len(lengths):
        edge, stop = _bucket_edge(lengths[first]), first
        while stop < len(lengths) and _bucket_edge(lengths[stop]) == edge:
            stop += 1
        is_uniform = lengths[first] == lengths[stop - 1]
        buckets.append(LengthBucket(first, stop - first, lengths[first] if is_uniform else edge))
        first = stop
    return buckets


def _bucket_edge(length: int) -> int:
    """Fused attention kernels work in blocks of 32; other lengths cost up to twice as much."""
    return SHORTEST_BUCKET if length <= SHORTEST_BUCKET else -(-length // 32) * 32
