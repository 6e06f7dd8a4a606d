"""Keys and values of a whole batch in one tensor, whose rows come and go."""

from __future__ import annotations

import torch
from torch import Tensor

CAPACITY_STEP = 256


class KvCache:
    """One row for each answer that is being computed; rows are packed at the front.

    It grows by copying, to the next power of two of rows and the next step of places, and gives all
    of its memory back once nobody uses it.

    Args:
        num_layers: layers of the model.
        num_heads: key and value heads of a layer.
        head_dim: length of a key.
        device: where it lives.
        dtype: of keys and values.

    Attributes:
        data: ``(layers, 2, rows, heads, places, head_dim)``; keys at 0, values at 1.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._num_layers, self._num_heads, self._head_dim = num_layers, num_heads, head_dim
        self._device, self._dtype = device, dtype
        self.data = self._empty(0, 0)

    @property
    def rows(self) -> int:
        """Rows that there is room for."""
        return self.data.shape[2]

    @property
    def places(self) -> int:
        """Tokens that each row has room for."""
        return self.data.shape[4]

    def _empty(self, rows: int, places: int) -> Tensor:
        return torch.zeros(
            (self._num_layers, 2, rows, self._num_heads, places, self._head_dim),
            device=self._device,
            dtype=self._dtype,
        )

    def reserve(self, rows: int, places: int) -> None:
        """Make room for `rows` rows of `places` tokens."""
        if rows <= self.rows and places <= self.places:
            return
        old = self.data
        rows = max(self.rows, 1 << (rows - 1).bit_length())
        places = max(self.places, -(-places // CAPACITY_STEP) * CAPACITY_STEP)
        self.data = self._empty(rows, places)
        self.data[:, :, : old.shape[2], :, : old.shape[4]] = old

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` hold the first `length` tokens of row `source`."""
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]

    def release(self) -> None:
        """Give the memory back."""
        self.data = self._empty(0, 0)
