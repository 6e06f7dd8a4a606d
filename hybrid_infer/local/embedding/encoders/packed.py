"""A packed batch, and what every packed encoder offers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_infer.local.embedding.attention import Bucket, attention_buckets
from hybrid_infer.local.embedding.tokens import Tokens


@dataclass(frozen=True)
class Packed:
    """Sequences laid end to end, sorted by length, and a few rows of nothing to end on a round size.

    oneDNN compiles a kernel for every number of rows that it meets (5 to 15 ms a layer kind), and what
    a GPU has recorded has fixed sizes, so batches come in few. The rows of nothing reach no result.

    Attributes:
        ids: token ids ``(rows,)``, int64 on a CPU and int32 on a GPU.
        positions: each token's place in its sequence, from 0; the same dtype and shape.
        ends: behind the last token of each sequence, with a 0 in front; the same dtype,
            ``(sequences + 1,)``.
        num_tokens: rows that belong to sequences.
        longest: tokens of the longest sequence, or somewhat more.
        lengths: tokens of each sequence; empty where only a GPU knows.
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor
    num_tokens: int
    longest: int
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, sequences: Tokens, device: torch.device) -> Packed:
        """Pack sequences that are sorted by length."""
        num_tokens, is_gpu = len(sequences.ids), device.type == "cuda"
        num_rows = num_tokens if is_gpu else round_size(num_tokens)
        block = _side_by_side(sequences, num_rows, is_gpu=is_gpu).to(device, non_blocking=True)
        ids, positions, ends = (
            block[:num_rows],
            block[num_rows : 2 * num_rows],
            block[2 * num_rows :],
        )
        lengths = sequences.lengths
        return cls(ids, positions, ends, num_tokens, lengths[0], tuple(lengths))

    @property
    def num_sequences(self) -> int:
        """Sequences, those of a shape that are empty included."""
        return len(self.ends) - 1

    @cached_property
    def segments(self) -> Tensor:
        """The number of each token's sequence, int64 ``(num_tokens,)``."""
        if self.ids.is_cuda:  # by an operation whose result has a size that is known before
            places = torch.arange(self.num_tokens, device=self.ids.device, dtype=self.ends.dtype)
            return torch.searchsorted(self.ends[1:], places, right=True)
        numbers = torch.arange(self.num_sequences)
        return torch.repeat_interleave(numbers, self.ends.diff(), output_size=self.num_tokens)

    def positions_behind(self, padding: int) -> Tensor:
        """Positions from `padding` + 1 on, counted over tokens that are not `padding`.

        A text may hold a literal ``<pad>``; its position is `padding`, and it does not advance the count.
        """
        is_padding = self.ids == padding
        if not bool(is_padding.any()):
            return self.positions + padding + 1
        sizes = [*self.lengths, len(is_padding) - self.num_tokens]
        counted = [
            (~part).cumsum(0) * ~part + padding
            for part in torch.split_with_sizes(is_padding, sizes)
        ]
        return torch.cat(counted)

    @cached_property
    def buckets(self) -> list[Bucket]:
        """Which sequences attend together."""
        return attention_buckets(self.lengths, self.ids.device)

    @property
    def longest_bucket(self) -> int:
        """Places of the longest bucket."""
        return max(bucket.length for bucket in self.buckets)


def _side_by_side(sequences: Tokens, num_rows: int, *, is_gpu: bool) -> Tensor:
    """Ids, positions and ends, to be sent in one copy; see `Packed`.

    For a GPU it is in memory that the system cannot move, from where a copy runs by itself.
    """
    dtype = torch.int32 if is_gpu else torch.int64
    block = torch.zeros(2 * num_rows + len(sequences) + 1, dtype=dtype, pin_memory=is_gpu)
    ids, positions, ends = np.split(block.numpy(), [num_rows, 2 * num_rows])
    lengths, num_tokens = np.array(sequences.lengths), len(sequences.ids)
    np.cumsum(lengths, out=ends[1:])
    ids[:num_tokens] = sequences.ids
    positions[:num_tokens] = np.arange(num_tokens)
    positions[:num_tokens] -= np.repeat(ends[:-1], lengths)
    return block


def round_size(tokens: int, sizes: int = 8) -> int:
    """The next of so many sizes per power of two; of eight: 16, 32 … 128, 144 … 256, 288 and so on."""
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - sizes.bit_length()))
    return -(-tokens // step) * step


class Means(Protocol):
    """Means of the rows of sequences, in one call."""

    def __call__(self, sequences: Tokens, *, is_unit: bool) -> tuple[NDArray[np.float32], bool]:
        """Float32 ``(sequences, width)``, and whether all values are finite.

        Args:
            sequences: token ids.
            is_unit: whether the means are made one long.
        """
        ...


class Trunk(Protocol):
    """A transformer that turns a packed batch into one vector per token.

    Attributes:
        device: where it computes.
        is_recordable: whether it needs nothing of a batch but what a recording has.
    """

    device: torch.device
    is_recordable: bool

    @property
    def means(self) -> Means | None:
        """Does all at once, where the mean is all that is wanted; None if it cannot."""
        ...

    def __call__(self, packed: Packed) -> Tensor:
        """``(rows, width)``."""
        ...
