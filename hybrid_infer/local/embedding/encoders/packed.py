"""A packed batch, and what every packed encoder offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_infer.local.embedding.attention import Bucket, attention_buckets
from hybrid_infer.local.embedding.encoders import TokenIds


@dataclass(frozen=True)
class Packed:
    """Sequences laid end to end, sorted by length, and a few rows of nothing to end on a round size.

    oneDNN compiles a kernel for every number of rows that it meets (5 to 15 ms a layer kind), so
    batches come in few sizes. The rows of nothing belong to no sequence and reach no result.

    Attributes:
        ids: token ids, int64 ``(rows,)``.
        positions: each token's place in its sequence, from 0, int64 ``(rows,)``.
        num_tokens: rows that belong to sequences.
        lengths: tokens of each sequence.
    """

    ids: Tensor
    positions: Tensor
    num_tokens: int
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, sequences: Sequence[TokenIds], device: torch.device) -> Packed:
        """Pack sequences that are sorted by length."""
        lengths = np.array([len(ids) for ids in sequences])
        num_tokens = int(lengths.sum())
        ids = np.zeros(round_size(num_tokens), np.int64)
        np.concatenate([np.asarray(sequence) for sequence in sequences], out=ids[:num_tokens])
        positions = np.zeros_like(ids)
        positions[:num_tokens] = np.arange(num_tokens)
        positions[:num_tokens] -= np.repeat(lengths.cumsum() - lengths, lengths)
        return cls(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(positions).to(device),
            num_tokens,
            tuple(lengths.tolist()),
        )

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
    def longest(self) -> int:
        """Places of the longest bucket."""
        return max(bucket.length for bucket in self.buckets)


def round_size(tokens: int) -> int:
    """The next of eight sizes per power of two: 16, 32 … 128, 144 … 256, 288 and so on."""
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - 4))
    return -(-tokens // step) * step


class Means(Protocol):
    """Means of the rows of sequences, in one call."""

    def __call__(
        self, sequences: Sequence[TokenIds], *, is_unit: bool
    ) -> tuple[NDArray[np.float32], bool]:
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
    """

    device: torch.device

    @property
    def means(self) -> Means | None:
        """Does all at once, where the mean is all that is wanted; None if it cannot."""
        ...

    def __call__(self, packed: Packed) -> Tensor:
        """``(rows, width)``."""
        ...
