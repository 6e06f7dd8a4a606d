"""The layout in which the kernels read weights; see ``tiles.h``."""

from __future__ import annotations

from torch import Tensor

PANEL = 32  # outputs that are computed together, and the inputs of a tile


def panels(weight: Tensor) -> Tensor:
    """A weight in panels.

    Args:
        weight: ``(out, in)``, both multiples of `PANEL`.

    Returns:
        ``(out / 32, in / 32, 2, 16, 16, 2)``: panel, step, half, pair of inputs, output, input.
    """
    outputs, inputs = weight.shape
    split = weight.reshape(outputs // PANEL, 2, 16, inputs // PANEL, 16, 2)
    return split.permute(0, 3, 1, 4, 2, 5).contiguous()
