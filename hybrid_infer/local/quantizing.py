"""Weights in fewer bits, through torchao: weight-only, to fit into memory, and for no other reason.

``int8`` keeps one scale for each row (symmetric). ``int4`` keeps a scale and a zero point for each
64 weights of a row. Activations stay as they are. Only the matrices of layers are quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hybrid_infer.local.quiet import import_torchao

GROUP_SIZE = 64
ROWS_STEP = 16  # torch's 4-bit kernels compute so many rows at once


def has_torchao() -> bool:
    """Whether weights can be quantised here."""
    return find_spec("torchao") is not None


def scheme_config(scheme: str, device: torch.device) -> Any:
    """Torchao's configuration of ``int8`` or ``int4`` on a device."""
    import_torchao()
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if scheme == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    if device.type == "cuda":
        return Int4WeightOnlyConfig(
            group_size=GROUP_SIZE,
            int4_packing_format="tile_packed_to_4d",
            set_inductor_config=False,
        )
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    return PrototypeInt4WeightOnlyConfig(group_size=GROUP_SIZE, set_inductor_config=False)


def can_quantize(scheme: str, rows: int, columns: int) -> bool:
    """Whether a matrix has a shape that the scheme's kernels compute."""
    return scheme == "int8" or (rows % ROWS_STEP == 0 and columns % GROUP_SIZE == 0)


def quantizer(scheme: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from a ``(out, in)`` weight to one in fewer bits, for `functional.linear` alone.

    What the scheme cannot take is given back as it is.
    """
    config = scheme_config(scheme, device)
    from torchao.quantization import quantize_

    def quantized(weight: Tensor) -> Tensor:
        rows, columns = weight.shape
        if not can_quantize(scheme, rows, columns):
            return weight
        layer = torch.nn.Linear(columns, rows, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        quantize_(layer, config)
        return layer.weight

    return quantized
