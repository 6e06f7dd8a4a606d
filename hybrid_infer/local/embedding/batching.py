"""Which sequences are computed together. Pure: lengths in, batches out; no clock, no lock, no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

SHORTEST_BUCKET = 16

OwnerT = TypeVar("OwnerT", bound=Hashable)
_LENGTH = attrgetter("length")


@dataclass(slots=True)  # not frozen: there are as many as texts, and that takes three times as long
class Entry(Generic[OwnerT]):
    """One sequence that waits.

    Attributes:
        owner: whose it is.
        index: which of the owner's sequences.
        length: its tokens.
    """

    owner: OwnerT
    index: int
    length: int


class _Queue(Generic[OwnerT]):
    """One owner's sequences: bulks in order of arrival, each with its longest sequence first."""

    __slots__ = ("bulks", "kind", "tokens")

    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self.bulks: deque[list[Entry[OwnerT]]] = deque()
        self.tokens = 0

    def add(self, entries: list[Entry[OwnerT]]) -> int:
        """Add a bulk; its tokens."""
        entries.sort(key=_LENGTH, reverse=True)
        entries.reverse()  # a list is taken from at its end
        self.bulks.append(entries)
        tokens: int = sum(map(_LENGTH, entries))
        self.tokens += tokens
        return tokens

    def peek(self) -> Entry[OwnerT]:
        return self.bulks[0][-1]

    def take(self, count: int, tokens: int) -> list[Entry[OwnerT]]:
        """The first `count` of the first bulk, which have so many tokens."""
        bulk = self.bulks[0]
        taken = bulk[: -count - 1 : -1]
        del bulk[-count:]
        if not bulk:
            self.bulks.popleft()
        self.tokens -= tokens
        return taken


class Window(Generic[OwnerT]):
    """Sequences of many owners, from which the next batch is taken.

    Who goes first: owners rotate, the least recently served in front, and every owner gets an
    equal share of a batch's tokens before anyone gets more. So a single query is in the next
    batch, whatever bulk job it meets, and the owner in front is always served: nobody starves.

    What goes together: an owner adds its sequences in bulks, and a bulk is taken from its longest
    sequence down, so neighbours in a batch have similar lengths. A bulk never overtakes an earlier
    one of its owner, so short sequences do not wait for ever behind longer ones that keep coming.

    Attributes:
        tokens: tokens that wait.
    """

    def __init__(self) -> None:
        self._queues: dict[OwnerT, _Queue[OwnerT]] = {}  # in the order of the rotation
        self._num_waiting = 0
        self.tokens = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __bool__(self) -> bool:
        return bool(self._queues)

    def tokens_of(self, owner: OwnerT) -> int:
        """Tokens that wait for one owner."""
        queue = self._queues.get(owner)
        return 0 if queue is None else queue.tokens

    def add(self, owner: OwnerT, kind: Hashable, lengths: Iterable[tuple[int, int]]) -> None:
        """Add a bulk of sequences.

        Args:
            owner: whose they are.
            kind: only sequences of equal kinds share a batch; one owner has one kind.
            lengths: ``(index, tokens)`` of each sequence.
        """
        entries = [Entry(owner, index, length) for index, length in lengths]
        if entries:
            self._num_waiting += len(entries)
            self.tokens += self._queues.setdefault(owner, _Queue(kind)).add(entries)

    def discard(self, owner: OwnerT) -> None:
        """Forget an owner's sequences; they will never be in a batch."""
        queue = self._queues.pop(owner, None)
        if queue is not None:
            self._num_waiting -= sum(map(len, queue.bulks))
            self.tokens -= queue.tokens

    def take(
        self,
        token_budget: int,
        max_items: int,
        is_wanted: Callable[[OwnerT], bool] = lambda _: True,
    ) -> list[Entry[OwnerT]]:
        """Remove and return the next batch, longest first; empty if nothing waits.

        Args:
            token_budget: tokens of the batch at most; a longer sequence is a batch of its own.
            max_items: sequences of the batch at most.
            is_wanted: asked once per owner; what is not wanted is dropped.
        """
        for owner in [owner for owner in self._queues if not is_wanted(owner)]:
            self.discard(owner)
        if not self._queues:
            return []
        kind = next(iter(self._queues.values())).kind
        owners = [owner for owner, queue in self._queues.items() if queue.kind == kind]
        batch = _Batch[OwnerT](token_budget, max_items)
        for limit in (token_budget // len(owners), token_budget):
            for owner in owners:
                queue = self._queues.get(owner)
                if queue is not None:
                    self._serve(owner, queue, batch, limit)
            if batch.is_full:
                break
        batch.entries.sort(key=_LENGTH, reverse=True)
        return batch.entries

    def _serve(
        self, owner: OwnerT, queue: _Queue[OwnerT], batch: _Batch[OwnerT], limit: int
    ) -> None:
        """Move sequences into the batch: one if it fits, more while they stay within `limit`."""
        if not batch.admits(queue.peek().length):
            return
        del self._queues[owner]
        taken = 0
        while queue.bulks:
            bulk = queue.bulks[0]
            count, tokens = batch.room_for(reversed(bulk), limit - taken, is_first=not taken)
            is_whole = count == len(bulk)
            if count:
                batch.add(queue.take(count, tokens), tokens)
                taken += tokens
                self._num_waiting -= count
                self.tokens -= tokens
            if not is_whole:
                break
        if queue.bulks:
            self._queues[owner] = queue  # at the end of the rotation


class _Batch(Generic[OwnerT]):
    __slots__ = ("_items_left", "_tokens_left", "entries")

    def __init__(self, token_budget: int, max_items: int) -> None:
        self._tokens_left, self._items_left = token_budget, max_items
        self.entries: list[Entry[OwnerT]] = []

    @property
    def is_full(self) -> bool:
        return self._tokens_left <= 0 or self._items_left <= 0

    def admits(self, length: int) -> bool:
        if not self.entries:
            return True
        return self._items_left > 0 and length <= self._tokens_left

    def room_for(
        self, entries: Iterable[Entry[OwnerT]], limit: int, *, is_first: bool
    ) -> tuple[int, int]:
        """How many of `entries`, in order, this batch admits, and their tokens.

        Args:
            entries: of one owner.
            limit: their tokens at most.
            is_first: whether the first of them may pass the limit.
        """
        count = tokens = 0
        for entry in entries:
            length = entry.length
            if is_first and not count:
                if not self.admits(length):
                    break
            elif (
                count >= self._items_left
                or tokens + length > self._tokens_left
                or tokens + length > limit
            ):
                break
            count += 1
            tokens += length
        return count, tokens

    def add(self, entries: list[Entry[OwnerT]], tokens: int) -> None:
        self.entries += entries
        self._tokens_left -= tokens
        self._items_left -= len(entries)


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
