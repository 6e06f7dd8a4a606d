"""The mean of each sequence's rows, in one pass: ``segment_means`` in ``encoder.c``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

LANES = 16  # values of one register


def can_average(x: Tensor) -> bool:
    """Whether the kernel takes these rows."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[1] % LANES == 0


def segment_means(kernels: ctypes.CDLL, x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Float32 ``(sequences, width)``.

    Args:
        kernels: the compiled library.
        x: bfloat16 ``(tokens, width)``, sequences end to end.
        lengths: tokens of each.
    """
    x, sizes = x.contiguous(), torch.tensor(lengths)
    out = torch.empty((len(lengths), x.shape[1]))
    average = kernels.segment_means
    average.argtypes = (*(ctypes.c_void_p,) * 2, *(ctypes.c_int64,) * 2, ctypes.c_void_p)
    average.restype = None
    average(x.data_ptr(), sizes.data_ptr(), len(lengths), x.shape[1], out.data_ptr())
    return out
