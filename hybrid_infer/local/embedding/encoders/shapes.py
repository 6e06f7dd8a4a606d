"""Batches of few sizes, which a GPU has recorded, and how they get there."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from hybrid_infer.local.embedding.encoders.packed import Packed, round_size
from hybrid_infer.local.embedding.tokens import Tokens

LEAST_ROWS = 64  # of a recording: fewer take a GPU no less time
SIZES = 4  # for each power of two
# A recording has room for sequences of so many, and for more if it has to.
ROWS_PER_SEQUENCE = 32
LEAST_LONGEST = 256  # a longer span costs the attention kernel some blocks that end at once
LEAST_STAGED = 1 << 18  # of int32


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a batch, which a recording has once and for all.

    They are few, for each is computed several times before it is recorded, and a crowd's batches are of
    any size.

    Attributes:
        rows: tokens; those that are too many are of one more sequence.
        sequences: how many; those that are too many are empty.
        longest: tokens of the longest sequence at most, but for the one that is too many.
    """

    rows: int
    sequences: int
    longest: int

    @classmethod
    def around(cls, sequences: Tokens) -> Shape:
        """The smallest of few that has room for sequences and one more."""
        rows = rows_of_recording(len(sequences.ids))
        usual = 1 << (rows // ROWS_PER_SEQUENCE - 1).bit_length()
        longest = max(LEAST_LONGEST, *sequences.lengths)
        return cls(
            rows,
            max(usual, 1 << len(sequences).bit_length()),
            1 << (longest - 1).bit_length(),
        )

    @property
    def size(self) -> int:
        """Numbers of which a batch consists; see `fill`."""
        return self.rows + self.sequences + 2

    def fill(self, block: memoryview, sequences: Tokens) -> None:
        """Write ids, the end of each sequence with a 0 in front, and how many ids there are.

        Not with numpy, which gives the interpreter's lock away for more than 500 numbers, and may get it
        back milliseconds later, with the GPU idle meanwhile.

        Args:
            block: int32, `size` of them.
            sequences: what to write.
        """
        num_tokens, used = len(sequences.ids), self.rows + len(sequences) + 1
        block[:num_tokens] = sequences.ids.data
        block[num_tokens : self.rows] = array("i", bytes(4 * (self.rows - num_tokens)))
        block[self.rows : used] = array("i", accumulate(sequences.lengths, initial=0))
        block[used:-1] = array("i", [self.rows]) * (self.size - 1 - used)
        block[-1] = num_tokens

    def packed(self, block: Tensor) -> Packed:
        """A batch of this shape, of which only the GPU knows more."""
        ids, ends, num_tokens = block[: self.rows], block[self.rows : -1], block[-1]
        places = torch.arange(self.rows, device=block.device, dtype=block.dtype)
        numbers = torch.searchsorted(ends[1:], places, right=True)
        positions = (places - ends[numbers]) * (places < num_tokens)  # none where nothing is
        return Packed(ids, positions, ends, self.rows, self.longest, ())


def rows_of_recording(tokens: int) -> int:
    """The rows of a recording for so many tokens."""
    return round_size(max(LEAST_ROWS, tokens), SIZES)


class Staging:
    """Memory from where a GPU reads batches, one after another, by itself: the system cannot move it.

    It is there once for each thread. To allocate some for every batch would now and then take the driver a
    tenth of a second.

    Args:
        size: int32 numbers that it has room for at least.
    """

    def __init__(self, size: int) -> None:
        room = max(LEAST_STAGED, 1 << (size - 1).bit_length())  # it grows seldom
        self._block = torch.zeros(room, dtype=torch.int32, pin_memory=True)
        self._view = self._block.numpy().data

    def has_room(self, shape: Shape) -> bool:
        """Whether a batch of this shape fits."""
        return shape.size <= len(self._block)

    def put(self, shape: Shape, sequences: Tokens) -> Tensor:
        """A batch, to be read before the next is put; always at the same address."""
        shape.fill(self._view[: shape.size], sequences)
        return self._block[: shape.size]
