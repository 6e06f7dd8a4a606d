"""Keys and values of the answers under way, in pages: each answer holds what it has reached so far."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

PAGE_TOKENS = 64  # PAGE in native/decoder.c


@dataclass(slots=True)
class _Row:
    """The pages of one answer, and their addresses as the kernels read them."""

    addresses: ctypes.Array[ctypes.c_void_p]
    pages: list[Tensor] = field(default_factory=list)


class PagedRows:
    """One row for each answer; pages that are free are used again, and given back once all are.

    Args:
        elements: bfloat16 numbers of a page: keys and values of `PAGE_TOKENS` tokens in all layers.
    """

    def __init__(self, elements: int) -> None:
        self._elements = elements
        self._rows: dict[int, _Row] = {}
        self._free: list[Tensor] = []

    @property
    def num_pages(self) -> int:
        """Pages that hold memory."""
        return len(self._free) + sum(len(row.pages) for row in self._rows.values())

    def begin(self, row: int, places: int) -> None:
        """See `Rows.begin`."""
        self._rows[row] = _Row((ctypes.c_void_p * -(-places // PAGE_TOKENS))())

    def reach(self, row: int, length: int) -> int:
        """Have pages for the first `length` tokens of a row; where their addresses stand.

        Raises:
            RuntimeError: torch has no memory left.
        """
        held = self._rows[row]
        while len(held.pages) * PAGE_TOKENS < length:
            # What lies behind an answer's end is multiplied by zero, so it must be a number.
            page = self._free.pop().zero_() if self._free else self._new()
            held.addresses[len(held.pages)] = page.data_ptr()
            held.pages.append(page)
        return ctypes.addressof(held.addresses)

    def _new(self) -> Tensor:
        return torch.zeros(self._elements, dtype=torch.bfloat16)

    def end(self, row: int) -> None:
        """See `Rows.end`."""
        held = self._rows.pop(row, None)
        if held is not None:
            self._free += held.pages
        if not self._rows:
            self._free.clear()

    def clear(self) -> None:
        """See `Rows.clear`."""
        self._rows.clear()
        self._free.clear()
