"""What somebody has in a batch. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Generic, TypeVar

OwnerT = TypeVar("OwnerT", bound=Hashable)
SourceT = TypeVar("SourceT")


@dataclass(slots=True)  # not frozen: there are as many as callers, and that takes thrice as long
class Share(Generic[OwnerT, SourceT]):
    """What an owner has in a batch, of one bulk; longest first, but for a crowd's.

    Attributes:
        owner: whose sequences they are.
        source: what the owner added with them.
        places: which of the bulk's sequences.
        lengths: tokens of each.
        tokens: of all.
    """

    owner: OwnerT
    source: SourceT
    places: Sequence[int]
    lengths: list[int]
    tokens: int

    def __len__(self) -> int:
        return len(self.places)

    def split(self, count: int) -> tuple[Share[OwnerT, SourceT], Share[OwnerT, SourceT]]:
        """The first `count` sequences, and the others."""
        first, rest = self.lengths[:count], self.lengths[count:]
        return (
            Share(self.owner, self.source, self.places[:count], first, sum(first)),
            Share(self.owner, self.source, self.places[count:], rest, sum(rest)),
        )

    def each(self) -> Iterator[Share[OwnerT, SourceT]]:
        """Its sequences, one by one."""
        for number, length in enumerate(self.lengths):
            yield Share(self.owner, self.source, self.places[number : number + 1], [length], length)

    def of(self, chosen: Sequence[bool]) -> Share[OwnerT, SourceT]:
        """Those of its sequences that are `chosen`."""
        if all(chosen):
            return self
        lengths = list(compress(self.lengths, chosen))
        places = list(compress(self.places, chosen))
        return Share(self.owner, self.source, places, lengths, sum(lengths))
