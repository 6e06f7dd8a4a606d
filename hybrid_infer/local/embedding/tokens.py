"""Token ids of many sequences, end to end in one array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray


class Tokens(Sequence["NDArray[np.int32]"]):
    """Sequences of token ids that lie end to end. Each is a view; none is ever an object of its own.

    There are as many sequences as texts, and whatever is done for each of them on its own is what a GPU
    waits for. So all that is done here is done for all at once.

    Args:
        ids: all token ids, int32, contiguous.
        lengths: how many each sequence has.
    """

    __slots__ = ("ids", "lengths")

    def __init__(self, ids: NDArray[np.int32], lengths: list[int]) -> None:
        self.ids = ids
        self.lengths = lengths

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int] | NDArray[np.int32]]) -> Tokens:
        """Sequences that lie anywhere."""
        parts = [np.asarray(sequence, np.int32) for sequence in sequences]
        ids = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return cls(ids, list(map(len, parts)))

    @classmethod
    def join(cls, parts: Sequence[Tokens]) -> Tokens:
        """All sequences of all `parts`; at least one."""
        if len(parts) == 1:
            return parts[0]
        lengths: list[int] = []
        for part in parts:
            lengths += part.lengths
        return cls(np.concatenate(list(map(_IDS, parts))), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:  # type: ignore[override]  # no slices
        lengths = self.lengths
        if not -len(lengths) <= index < len(lengths):
            raise IndexError(index)
        start = sum(lengths[: index % len(lengths)])
        return self.ids[start : start + lengths[index]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        bounds = accumulate(self.lengths, initial=0)
        return (self.ids[start:stop] for start, stop in pairwise(bounds))

    def split(self, counts: Iterable[int]) -> Iterator[Tokens]:
        """The first so many sequences, then the next, and so on."""
        start = first = 0
        for count in counts:
            lengths = self.lengths[first : first + count]
            stop = start + sum(lengths)
            yield Tokens(self.ids[start:stop], lengths)
            start, first = stop, first + count

    def take(self, places: Sequence[int]) -> Tokens:
        """The sequences at these places, in this order; fastest for a range, whose step must be 1."""
        if isinstance(places, range):
            if len(places) == len(self.lengths):
                return self
            lengths = self.lengths[places.start : places.stop]
            start = sum(self.lengths[: places.start])
            return Tokens(self.ids[start : start + sum(lengths)], lengths)
        if len(places) == 1:
            return Tokens.of([self[places[0]]])
        # To index by a list would take numpy thrice as long as all of this.
        chosen, every = np.array(places, np.intp), np.array(self.lengths)
        taken = every[chosen]
        # What must be added to a token's place in the result for its place here.
        found = (every.cumsum()[chosen] - taken.cumsum()).repeat(taken)
        found += np.arange(len(found))
        return Tokens(self.ids[found], taken.tolist())


_IDS = attrgetter("ids")
