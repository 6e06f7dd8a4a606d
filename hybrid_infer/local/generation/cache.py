"""Keys and values of the answers under way, in one tensor for all that may become about as long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hybrid_infer.local.generation.scheduling import extent

_PLACES_STEP = 32  # attention kernels are compiled for each length that they meet


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a step that falls to one tensor.

    Attributes:
        data: ``(layers, 2, slots, heads, places, head_dim)``; keys at 0, values at 1.
        order: which rows of the step these are, or None if they are all of them, in order.
        slots: where they lie.
        lengths: tokens that they hold.
        mask: additive, ``(rows, 1, 1, places)``, hides what a row does not hold.
        is_packed: whether their slots are the first ones, in order.
    """

    data: Tensor
    order: Tensor | None
    slots: Tensor
    lengths: Tensor
    mask: Tensor
    is_packed: bool

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add a key and a value to each row; all keys and values of these rows.

        Args:
            layer: of which layer.
            key: ``(rows, heads, head_dim)``.
            value: the same.
        """
        keys, values = self.data[layer]
        keys[self.slots, :, self.lengths] = key
        values[self.slots, :, self.lengths] = value
        rows = slice(len(self.slots)) if self.is_packed else self.slots
        places = self.mask.shape[-1]
        return keys[rows, :, :places], values[rows, :, :places]


@dataclass(slots=True)
class _Group:
    """Rows of one extent, at the front of a tensor that grows by copying."""

    data: Tensor
    rows: list[int] = field(default_factory=list)


class KvCache:
    """One row for each answer.

    A long answer takes no more memory or time from short ones, because only rows of the same extent
    share a tensor. A tensor has room for the next power of two of rows at most whenever another one
    grows, so that together they hold no more than twice what was reserved. All memory is given back
    once nobody uses it.

    Args:
        num_layers: layers of the model.
        num_heads: key and value heads of a layer.
        head_dim: length of a key.
        device: where it lives.
        dtype: of keys and values.
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
        self._groups: dict[int, _Group] = {}
        self._where: dict[int, _Group] = {}

    @property
    def num_places(self) -> int:
        """Tokens that there is room for."""
        return sum(group.data.shape[2] * group.data.shape[4] for group in self._groups.values())

    def begin(self, row: int, places: int) -> None:
        """See `Rows.begin`."""
        size = extent(places)
        group = self._groups.get(size)
        if group is None or len(group.rows) == group.data.shape[2]:
            self._trim()  # others may have left room behind that is promised to this row now
            group = self._groups.setdefault(size, _Group(self._empty(0, size)))
            self._resize(group, max(1, 2 * len(group.rows)))
        held = len(group.rows)
        # What a mask hides is still multiplied by zero, so it must be a number.
        group.data[:, :, held].zero_()
        group.rows.append(row)
        self._where[row] = group

    def _trim(self) -> None:
        """Give back what rows that have ended held."""
        for size, group in list(self._groups.items()):
            held = len(group.rows)
            needed = 1 << (held - 1).bit_length()
            if not held:
                del self._groups[size]
            elif needed < group.data.shape[2]:
                self._resize(group, needed)

    def _resize(self, group: _Group, rows: int) -> None:
        held = len(group.rows)
        data = self._empty(rows, group.data.shape[4])
        data[:, :, :held] = group.data[:, :, :held]
        group.data = data

    def _empty(self, rows: int, places: int) -> Tensor:
        return torch.empty(
            (self._num_layers, 2, rows, self._num_heads, places, self._head_dim),
            device=self._device,
            dtype=self._dtype,
        )

    def row(self, row: int) -> Tensor:
        """Keys and values of one row, ``(layers, 2, heads, places, head_dim)``."""
        group = self._where[row]
        return group.data[:, :, group.rows.index(row)]

    def shares(self, lengths: Sequence[int], rows: Sequence[int], window: int) -> list[Share]:
        """What some rows, which hold `lengths` tokens, need for one step.

        Args:
            lengths: tokens that each holds.
            rows: their numbers.
            window: positions that a token sees, itself included.
        """
        places = {row: place for place, row in enumerate(rows)}
        shares = []
        for group in self._groups.values():
            slots = [slot for slot, row in enumerate(group.rows) if row in places]
            if slots:
                order = [places[group.rows[slot]] for slot in slots]
                shares.append(self._share(group, slots, order, lengths, window))
        return shares

    def _share(
        self,
        group: _Group,
        slots: list[int],
        order: list[int],
        lengths: Sequence[int],
        window: int,
    ) -> Share:
        held = [lengths[number] for number in order]
        places = min(-(-(max(held) + 1) // _PLACES_STEP) * _PLACES_STEP, group.data.shape[4])
        holds = torch.tensor(held, device=self._device)
        behind = holds[:, None] - torch.arange(places, device=self._device)
        hidden = (behind < 0) | (behind >= window)
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(hidden, -torch.inf)
        is_everyone = order == list(range(len(lengths)))
        return Share(
            group.data,
            None if is_everyone else torch.tensor(order, device=self._device),
            torch.tensor(slots, device=self._device),
            holds,
            mask[:, None, None],
            slots == list(range(len(slots))),
        )

    def end(self, row: int) -> None:
        """See `Rows.end`. The last row of a tensor takes the place that is free."""
        group = self._where.pop(row, None)
        if group is not None:
            slot, last = group.rows.index(row), len(group.rows) - 1
            if slot < last:
                group.data[:, :, slot] = group.data[:, :, last]
                group.rows[slot] = group.rows[last]
            group.rows.pop()
        if not self._where:
            self._groups.clear()

    def clear(self) -> None:
        """See `Rows.clear`."""
        self._where.clear()
        self._groups.clear()
