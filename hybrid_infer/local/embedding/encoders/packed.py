"""A packed batch, and what every packed encoder offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_infer.local.embedding.attention import Bucket, attention_buckets
from hybrid_infer.local.embedding.encoders import TokenIds


@dataclass(frozen=True)
class Packed:
    """Sequences laid end to end, sorted by length; on a CPU a few rows of nothing end on a round size.

    oneDNN compiles a kernel for every number of rows that it meets (5 to 15 ms a layer kind), so
    batches come in few sizes. The rows of nothing belong to no sequence and reach no result.

    Attributes:
        ids: token ids ``(rows,)``, int64 on a CPU and int32 on a GPU.
        positions: each token's place in its sequence, from 0; the same dtype and shape.
        ends: behind the last token of each sequence, with a 0 in front; the same dtype,
            ``(sequences + 1,)``.
        num_tokens: rows that belong to sequences.
        lengths: tokens of each sequence.
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor
    num_tokens: int
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, sequences: Sequence[TokenIds], device: torch.device) -> Packed:
        """Pack sequences that are sorted by length."""
        lengths = np.array([len(ids) for ids in sequences])
        num_tokens = int(lengths.sum())
        num_rows = round_size(num_tokens) if device.type == "cpu" else num_tokens
        block = _Block(2 * num_rows + len(lengths) + 1, device)
        ids, positions, ends = np.split(block.array, [num_rows, 2 * num_rows])
        np.concatenate([np.asarray(sequence) for sequence in sequences], out=ids[:num_tokens])
        np.cumsum(lengths, out=ends[1:])
        positions[:num_tokens] = np.arange(num_tokens)
        positions[:num_tokens] -= np.repeat(ends[:-1], lengths)
        sent = block.sent()
        return cls(
            sent[:num_rows],
            sent[num_rows : 2 * num_rows],
            sent[2 * num_rows :],
            num_tokens,
            tuple(lengths.tolist()),
        )

    @cached_property
    def segments(self) -> Tensor:
        """The number of each token's sequence, int64 ``(num_tokens,)``."""
        numbers = torch.arange(len(self.lengths), device=self.ids.device)
        return torch.repeat_interleave(numbers, self.ends.diff(), output_size=self.num_tokens)

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


class _Block:
    """Zeros to be written here and sent to where a model computes, all in one copy.

    From memory that the system cannot move, a copy to a GPU runs by itself.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._device, is_gpu = device, device.type == "cuda"
        dtype = torch.int32 if is_gpu else torch.int64
        self._here = torch.zeros(size, dtype=dtype, pin_memory=is_gpu)
        self.array: NDArray[np.integer[Any]] = self._here.numpy()

    def sent(self) -> Tensor:
        """The block on the device; it is not to be written any more."""
        return self._here.to(self._device, non_blocking=True)


class Trunk(Protocol):
    """A transformer that turns a packed batch into one vector per token."""

    device: torch.device

    def __call__(self, packed: Packed) -> Tensor:
        """``(rows, width)``."""
        ...
