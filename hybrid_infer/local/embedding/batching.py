"""Which sequences are computed together. Pure: lengths in, batches out; no clock, no lock, no torch."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from operator import not_
from typing import Generic

from hybrid_infer.local.embedding.shares import OwnerT, Share, SourceT


class _Bulk(Generic[SourceT]):
    """Sequences that came together, longest first, of which the first are gone."""

    __slots__ = ("_ends", "_lengths", "_next", "_places", "_source")

    def __init__(self, source: SourceT, lengths: list[int]) -> None:
        places: Sequence[int] = range(len(lengths))
        if len(lengths) > 1:
            places = sorted(places, key=lengths.__getitem__, reverse=True)
            lengths = [lengths[place] for place in places]
        self._source, self._places, self._lengths = source, places, lengths
        self._ends = lengths if len(lengths) == 1 else list(accumulate(lengths))
        self._next = 0

    def __len__(self) -> int:
        return len(self._places) - self._next

    @property
    def tokens(self) -> int:
        """Of those that are left."""
        return self._ends[-1] - self._gone

    @property
    def longest(self) -> int:
        """Tokens of the next sequence."""
        return self._lengths[self._next]

    @property
    def _gone(self) -> int:
        return self._ends[self._next - 1] if self._next else 0

    def within(self, tokens: int, items: int) -> int:
        """How many of the next sequences have at most so many tokens."""
        most = min(len(self._places), self._next + items)
        return bisect_right(self._ends, self._gone + tokens, self._next, most) - self._next

    def take(self, owner: OwnerT, count: int) -> Share[OwnerT, SourceT]:
        """The next `count`."""
        first, gone = self._next, self._gone
        self._next = stop = first + count
        tokens = self._ends[stop - 1] - gone
        if not first and stop == len(self._places):
            return Share(owner, self._source, self._places, self._lengths, tokens)
        return Share(
            owner, self._source, self._places[first:stop], self._lengths[first:stop], tokens
        )


class _Queue(Generic[OwnerT, SourceT]):
    """One owner's bulks, in order of arrival."""

    __slots__ = ("_bulks", "kind", "tokens")
    rotates = True
    num_owners = 1

    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self._bulks: deque[_Bulk[SourceT]] = deque()
        self.tokens = 0

    def __len__(self) -> int:
        return sum(map(len, self._bulks))

    def __bool__(self) -> bool:
        return bool(self._bulks)

    def add(self, bulk: _Bulk[SourceT]) -> None:
        self._bulks.append(bulk)
        self.tokens += bulk.tokens

    def serve(self, owner: OwnerT, batch: _Batch[OwnerT, SourceT], limit: int) -> bool:
        """Move sequences into the batch: one if it fits, more while they stay within `limit`."""
        bulks, taken = self._bulks, 0
        if not batch.admits(bulks[0].longest):
            return False
        while bulks:
            bulk = bulks[0]
            count = batch.room_for(bulk, limit - taken, is_first=not taken)
            if not count:
                break
            share = bulk.take(owner, count)
            batch.add(share)
            taken += share.tokens
            if bulk:
                break
            bulks.popleft()
        self.tokens -= taken
        return True


class _Crowd(Generic[OwnerT, SourceT]):
    """Sequences that came together, each an owner's of its own, in order of arrival."""

    __slots__ = ("_lengths", "_places", "_source", "kind", "tokens")
    rotates = False

    def __init__(self, kind: Hashable, source: SourceT, lengths: list[int]) -> None:
        self.kind, self._source = kind, source
        self._places: Sequence[int] = range(len(lengths))
        self._lengths = lengths
        self.tokens = sum(lengths)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_owners(self) -> int:
        return len(self._places)

    def serve(self, owner: OwnerT, batch: _Batch[OwnerT, SourceT], limit: int) -> bool:  # noqa: ARG002 - one of each
        """Move into the batch what fits, one by one; whoever does not fit is overtaken."""
        places, lengths = self._places, self._lengths
        tokens_left, items_left = batch.tokens_left, batch.items_left
        if self.tokens <= tokens_left and len(places) <= items_left:
            batch.add(Share(owner, self._source, places, lengths, self.tokens))
            self._places = ()
            return True
        is_taken, is_empty = [], not batch.shares
        for length in lengths:
            fits = is_empty or (items_left > 0 and length <= tokens_left)
            is_taken.append(fits)
            if fits:
                is_empty = False
                tokens_left -= length
                items_left -= 1
        whole = Share(owner, self._source, places, lengths, self.tokens)
        share, rest = whole.of(is_taken), whole.of(list(map(not_, is_taken)))
        if share:
            batch.add(share)
        self._places, self._lengths, self.tokens = rest.places, rest.lengths, rest.tokens
        return bool(share)


class Window(Generic[OwnerT, SourceT]):
    """Sequences of many owners, from which the next batch is taken.

    Who goes first: owners rotate, the least recently served in front, and every owner gets an
    equal share of a batch's tokens before anyone gets more. So a single query is in the next
    batch, whatever bulk job it meets, and the owner in front is always served: nobody starves.

    Many owners of one sequence each, whose sequences came together, are a crowd. It is served exactly as
    they would be, one by one in order of arrival, but all at once.

    What goes together: an owner adds its sequences in bulks, and a bulk is taken from its longest
    sequence down, so neighbours in a batch have similar lengths. A bulk never overtakes an earlier
    one of its owner, so short sequences do not wait for ever behind longer ones that keep coming.

    Attributes:
        tokens: tokens that wait.
    """

    def __init__(self) -> None:
        # In the order of the rotation.
        self._queues: dict[OwnerT, _Queue[OwnerT, SourceT] | _Crowd[OwnerT, SourceT]] = {}
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

    def add(self, owner: OwnerT, kind: Hashable, source: SourceT, lengths: list[int]) -> None:
        """Add a bulk of sequences.

        Args:
            owner: whose they are.
            kind: only sequences of equal kinds share a batch; one owner has one kind.
            source: handed back with each share of them.
            lengths: tokens of each sequence; not changed afterwards.
        """
        if not lengths:
            return
        queue = self._queues.get(owner)
        if not isinstance(queue, _Queue):
            queue = self._queues[owner] = _Queue(kind)
        queue.add(_Bulk(source, lengths))
        self.tokens += sum(lengths)
        self._num_waiting += len(lengths)

    def add_crowd(self, crowd: OwnerT, kind: Hashable, source: SourceT, lengths: list[int]) -> None:
        """Add sequences of as many owners, who are one here; see `add`. A crowd adds once."""
        self._queues[crowd] = _Crowd(kind, source, lengths)
        self.tokens += sum(lengths)
        self._num_waiting += len(lengths)

    def discard(self, owner: OwnerT) -> None:
        """Forget an owner's sequences; they will never be in a batch."""
        queue = self._queues.pop(owner, None)
        if queue is not None:
            self._num_waiting -= len(queue)
            self.tokens -= queue.tokens

    def take(
        self,
        token_budget: int,
        max_items: int,
        is_wanted: Callable[[OwnerT], bool] = lambda _: True,
    ) -> list[Share[OwnerT, SourceT]]:
        """Remove and return the next batch; empty if nothing waits.

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
        same = {owner: queue for owner, queue in self._queues.items() if queue.kind == kind}
        num_owners = sum(queue.num_owners for queue in same.values())
        batch = _Batch[OwnerT, SourceT](token_budget, max_items)
        for limit in (token_budget // num_owners, token_budget):
            for owner in same:
                if owner in self._queues:
                    self._serve(owner, batch, limit)
            if batch.is_full:
                break
        self._num_waiting -= max_items - batch.items_left
        self.tokens -= token_budget - batch.tokens_left
        return batch.shares

    def _serve(self, owner: OwnerT, batch: _Batch[OwnerT, SourceT], limit: int) -> None:
        queue = self._queues[owner]
        is_served = queue.serve(owner, batch, limit)
        if not queue:
            del self._queues[owner]
        elif is_served and queue.rotates:
            self._queues[owner] = self._queues.pop(owner)  # at the end


class _Batch(Generic[OwnerT, SourceT]):
    __slots__ = ("items_left", "shares", "tokens_left")

    def __init__(self, token_budget: int, max_items: int) -> None:
        self.tokens_left, self.items_left = token_budget, max_items
        self.shares: list[Share[OwnerT, SourceT]] = []

    @property
    def is_full(self) -> bool:
        return self.tokens_left <= 0 or self.items_left <= 0

    def admits(self, length: int) -> bool:
        if not self.shares:
            return True
        return self.items_left > 0 and length <= self.tokens_left

    def room_for(self, bulk: _Bulk[SourceT], limit: int, *, is_first: bool) -> int:
        """How many of a bulk's next sequences this batch admits.

        Args:
            bulk: of one owner.
            limit: their tokens at most.
            is_first: whether the first of them may pass the limit.
        """
        count = bulk.within(min(self.tokens_left, limit), self.items_left)
        return 1 if not count and is_first and self.admits(bulk.longest) else count

    def add(self, share: Share[OwnerT, SourceT]) -> None:
        self.shares.append(share)
        self.tokens_left -= share.tokens
        self.items_left -= len(share)
