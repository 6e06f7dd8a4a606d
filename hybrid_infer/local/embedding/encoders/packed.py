"""A packed batch, and what every packed encoder offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hybrid_infer.local.embedding.attention import Group
from hybrid_infer.local.embedding.batching import equal_length_groups
from hybrid_infer.local.embedding.encoders import TokenIds


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences laid end to end, equal lengths side by side, nothing padded.

    Attributes:
        ids: token ids, int64 ``(tokens,)``.
        lengths: tokens of each sequence.
        groups: runs of equal length: ``(first token, sequences, tokens of each)``.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    groups: list[Group]

    @classmethod
    def of(cls, sequences: Sequence[TokenIds], device: torch.device) -> Packed:
        """Pack sequences that are sorted by length."""
        flat = np.concatenate([np.asarray(ids, np.int64) for ids in sequences])
        lengths = tuple(len(ids) for ids in sequences)
        return cls(torch.from_numpy(flat).to(device), lengths, equal_length_groups(lengths))

    def positions(self) -> Tensor:
        """Each token's place in its sequence, from 0."""
        device = self.ids.device
        return torch.cat(
            [torch.arange(length, device=device).repeat(count) for _, count, length in self.groups]
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)


class Trunk(Protocol):
    """A transformer that turns a packed batch into one vector per token."""

    device: torch.device

    def __call__(self, packed: Packed) -> Tensor:
        """``(tokens, width)``."""
        ...
