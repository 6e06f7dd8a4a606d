"""Keys and values of the answers under way, in one tensor for all that may become about as long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hybrid_infer.local.generation.decoders import Piece
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


@dataclass(frozen=True, slots=True)
class Store:
    """The part of a call's tokens that one tensor holds.

    Attributes:
        data: ``(layers, 2, slots, heads, places, head_dim)``; keys at 0, values at 1.
        tokens: which tokens of the call these are, or None if they are all of them.
        slots: where each goes, int64.
        places: and to which place of its slot.
    """

    data: Tensor
    tokens: Tensor | None
    slots: Tensor
    places: Tensor

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Put the keys and values of the call's tokens, ``(tokens, heads, head_dim)``, into a layer."""
        for held, new in zip(self.data[layer], (key, value), strict=True):
            held[self.slots, :, self.places] = new if self.tokens is None else new[self.tokens]


@dataclass(frozen=True, slots=True)
class Span:
    """All slots of one tensor up to a power of two, whoever takes part in a step.

    Attributes:
        data: ``(layers, 2, slots, heads, places, head_dim)``; keys at 0, values at 1.
        count: slots, from the first.
        seen: places that a step reads, from the first.
        slots: each row of the step that lies here: its slot, and its number in the step.
    """

    data: Tensor
    count: int
    seen: int
    slots: tuple[tuple[int, int], ...]

    @property
    def places(self) -> int:
        """Places that each slot has."""
        return self.data.shape[4]

    @property
    def kind(self) -> tuple[int, tuple[int, ...], int, int]:
        """Equal for steps that compute the same operations on the same memory."""
        return self.data.data_ptr(), tuple(self.data.shape), self.count, self.seen

    def mask(self, held: Tensor, window: int) -> Tensor:
        """What is added to scores, ``(count, 1, 1, seen)``; hides what a row does not hold.

        Args:
            held: tokens of each slot before the newest, int64 ``(count,)``.
            window: positions that a token sees, itself included.
        """
        return _mask(held, self.seen, window, self.data.dtype)

    def written(
        self, layer: int, places: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put a key and a value into each slot; all keys and values that a step reads.

        Args:
            layer: of which layer.
            places: where, int64 ``(count,)``.
            key: ``(count, heads, head_dim)``.
            value: the same.
        """
        keys, values = self.data[layer, :, : self.count]
        at = places[:, None, None, None].expand(-1, key.shape[1], 1, key.shape[2])
        keys.scatter_(2, at, key[:, :, None])
        values.scatter_(2, at, value[:, :, None])
        return keys[:, :, : self.seen], values[:, :, : self.seen]


def _mask(held: Tensor, seen: int, window: int, dtype: torch.dtype) -> Tensor:
    behind = held[:, None] - torch.arange(seen, device=held.device)
    hidden = (behind < 0) | (behind >= window)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=held.device)
    return mask.masked_fill_(hidden, -torch.inf)[:, None, None]


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
    once nobody uses it; but on a GPU it stays until rows of other extents want it, because what is
    recorded there knows its addresses.

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
        mask = _mask(holds, places, window, self._dtype)
        is_everyone = order == list(range(len(lengths)))
        return Share(
            group.data,
            None if is_everyone else torch.tensor(order, device=self._device),
            torch.tensor(slots, device=self._device),
            holds,
            mask,
            slots == list(range(len(slots))),
        )

    def stores(self, pieces: Sequence[Piece]) -> list[Store]:
        """Where the tokens of pieces of prompts go."""
        by_group: dict[int, tuple[_Group, list[tuple[int, int, int]]]] = {}
        first = 0
        for row, start, ids in pieces:
            group = self._where[row]
            slot = group.rows.index(row)
            _, tokens = by_group.setdefault(id(group), (group, []))
            tokens += ((first + place, slot, start + place) for place in range(len(ids)))
            first += len(ids)
        stores = []
        for group, tokens in by_group.values():
            numbers, slots, places = torch.tensor(tokens, device=self._device).unbind(1)
            stores.append(Store(group.data, None if len(by_group) == 1 else numbers, slots, places))
        return stores

    def spans(self, lengths: Sequence[int], rows: Sequence[int]) -> list[Span]:
        """The tensors that some rows, which hold `lengths` tokens, lie in."""
        numbers = {row: number for number, row in enumerate(rows)}
        spans = []
        for group in self._groups.values():
            slots = tuple(
                (slot, numbers[row]) for slot, row in enumerate(group.rows) if row in numbers
            )
            if slots:
                longest = max(lengths[number] for _, number in slots)
                seen = min(extent(longest + 1), group.data.shape[4])
                count = 1 << (len(group.rows) - 1).bit_length()
                spans.append(Span(group.data, count, seen, slots))
        return spans

    def end(self, row: int) -> None:
        """See `Rows.end`. The last row of a tensor takes the place that is free."""
        group = self._where.pop(row, None)
        if group is not None:
            slot, last = group.rows.index(row), len(group.rows) - 1
            if slot < last:
                group.data[:, :, slot] = group.data[:, :, last]
                group.rows[slot] = group.rows[last]
            group.rows.pop()
        if not self._where and self._device.type != "cuda":
            self._groups.clear()

    def clear(self) -> None:
        """See `Rows.clear`."""
        self._where.clear()
        self._groups.clear()
